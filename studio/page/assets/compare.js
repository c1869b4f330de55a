// All videos of the open comparison as one: they start together, stay together, and the shorter ones hold their end.
window.studio.keepFocus(element, watch);
// A seek is exact, a change of the rate is smooth: the one for what is far off, the other for what is nearly right.
const FAR_S = 0.25, NEAR_S = 0.008, END_S = 0.05, LOOK_MS = 15000;
const all = () => [...element.querySelectorAll('video')];
const ready = () => all().filter((video) => video.readyState >= 1 && video.duration > 0);
const length = () => Math.max(0, ...ready().map((video) => video.duration));
const isOver = (video) => video.ended || video.currentTime >= video.duration - END_S;
const median = (numbers) => numbers.sort((one, other) => one - other)[numbers.length >> 1];
let isPlaying = false, place = 0, turn = 0, opened;

const draw = () => {
  const button = element.querySelector('[data-play]'), end = length();
  if (!button) return;
  button.setAttribute('aria-pressed', String(isPlaying));
  const seek = element.querySelector('[data-seek]');
  if (document.activeElement !== seek || isPlaying) seek.value = end ? 1000 * place / end : 0;
  const clock = `${place.toFixed(1)} / ${end.toFixed(1)} s`;
  const shown = element.querySelector('[data-clock]');
  if (shown.textContent !== clock) shown.textContent = clock;
};

const settled = (video) => new Promise((done) => {
  if (!video.seeking && video.readyState >= 2) { done(); return; }
  const look = () => { if (!video.seeking && video.readyState >= 2) finish(); };
  const finish = () => {
    clearTimeout(late);
    for (const name of ['seeked', 'canplay', 'loadeddata', 'error']) video.removeEventListener(name, name === 'error' ? finish : look);
    done();
  };
  const late = setTimeout(finish, LOOK_MS);
  for (const name of ['seeked', 'canplay', 'loadeddata', 'error']) video.addEventListener(name, name === 'error' ? finish : look);
});

// A video takes its time when it is played for the first time, each another one.
const primed = new WeakSet();
const prime = async (videos) => {
  const fresh = videos.filter((video) => !primed.has(video));
  await Promise.all(fresh.map((video) => { primed.add(video); return video.play().catch(() => {}); }));
  for (const video of fresh) video.pause();
};

// Every video to the same place, and only when all have arrived there on together.
const goTo = async (seconds) => {
  const mine = ++turn, videos = ready();
  place = seconds;
  if (isPlaying) await prime(videos);
  if (mine !== turn) return;
  for (const video of videos) {
    video.pause();
    video.playbackRate = 1;
    const wanted = Math.min(seconds, Math.max(0, video.duration - 0.001));
    if (Math.abs(video.currentTime - wanted) > 0.001) video.currentTime = wanted;
  }
  draw();
  if (!isPlaying) return;
  await Promise.all(videos.map(settled));
  if (mine !== turn || !isPlaying) return;
  for (const video of videos) if (!isOver(video)) video.play().catch(() => {});
  requestAnimationFrame(() => follow(mine));
};

const follow = (mine) => {
  if (mine !== turn || !isPlaying) return;
  const going = ready().filter((video) => !isOver(video));
  if (!going.length) { goTo(0); return; }
  const moving = going.filter((video) => !video.paused && !video.seeking);
  if (moving.length) place = median(moving.map((video) => video.currentTime));
  for (const video of going) {
    if (video.seeking) continue;
    const behind = place - video.currentTime;
    if (video.paused || Math.abs(behind) > FAR_S) {
      if (Math.abs(behind) > NEAR_S) video.currentTime = Math.min(place, video.duration - 0.001);
      if (video.paused) video.play().catch(() => {});
    }
    const rate = Math.abs(behind) < NEAR_S ? 1 : Math.min(1.6, Math.max(0.5, 1 + 6 * behind));
    if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
  }
  draw();
  requestAnimationFrame(() => follow(mine));
};

const pause = () => {
  isPlaying = false;
  turn++;
  const going = ready().filter((video) => !isOver(video));
  if (going.length) place = median(going.map((video) => video.currentTime));
  goTo(place);
};

const rank = () => { element.dataset.metric = element.querySelector('.metrics input:checked')?.value ?? ''; };

watch('value', () => {
  const shown = element.querySelector('.opened')?.dataset.comparison ?? null;
  if (shown !== opened) {
    const isFirst = opened === undefined;
    opened = shown;
    isPlaying = false;
    turn++;
    place = 0;
    const here = new URL(location.href);
    shown ? here.searchParams.set('compare', shown) : here.searchParams.delete('compare');
    history.replaceState(null, '', here);
    if (shown && !isFirst) element.scrollIntoView({behavior: 'smooth', block: 'start'});
  }
  // An attribute of the markup mutes a video only while the page is read for the first time.
  for (const video of all()) video.muted = true;
  rank();
  draw();
});
element.addEventListener('loadedmetadata', draw, true);
element.addEventListener('change', (event) => { if (event.target.name === 'compare-metric') rank(); });
element.addEventListener('input', (event) => {
  if ('seek' in event.target.dataset) goTo(event.target.value / 1000 * length());
});
element.addEventListener('click', (event) => {
  const pressed = event.target.closest('button');
  if (!pressed) return;
  if ('play' in pressed.dataset) {
    if (isPlaying) { pause(); return; }
    isPlaying = true;
    goTo(place >= length() - END_S ? 0 : place);
  } else if (pressed.dataset.act) {
    const {act, job, comparison} = pressed.dataset;
    trigger('act_on_comparison', {act, job, comparison});
  }
});
