"""What one clause says about the camera.

Knows one clause at a time, by the roles of its words; whether the camera was spoken of before comes as `topic`.
The rules lean to silence: a move that is not plainly the camera's is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prompt_refiner.lexicon import Direction, Lexicon, Token, Verb, Way
from prompt_refiner.types import CameraTag

_TOWARD_ENDINGS = ("向", "到", "至")


@dataclass(frozen=True, kw_only=True)
class CameraReading:
    """`used` are the indices of the tokens that speak of the camera; `chosen` the tags whose direction we chose.

    `is_topic` says that the clause is about the camera, `is_unclear` that it asks for something we cannot name.
    """

    tags: tuple[CameraTag, ...] = ()
    chosen: tuple[CameraTag, ...] = ()
    used: frozenset[int] = frozenset()
    is_topic: bool = False
    is_unclear: bool = False


def read_camera(tokens: Sequence[Token], lexicon: Lexicon, *, topic: bool) -> CameraReading:
    """Reads one clause. `topic`: the clause before it was about the camera."""
    return _Clause(tokens, lexicon, topic=topic).read()


class _Clause:
    """One clause while it is read."""

    def __init__(self, tokens: Sequence[Token], lexicon: Lexicon, *, topic: bool) -> None:
        self.tokens = tokens
        self.lexicon = lexicon
        self.topic = topic
        self.nouns = [index for index, token in enumerate(tokens) if self._is_moving_camera(index, token)]
        self.tags: list[CameraTag] = []
        self.chosen: list[CameraTag] = []
        self.used: set[int] = set()
        self.verbs: list[int] = []
        self.is_unclear = False
        self.is_refused = False

    def read(self) -> CameraReading:
        # 1. Phrases that ask for a still camera
        for index, token in enumerate(self.tokens):
            if token.has("static") or (token.has("still") and self._is_about_the_camera(index)):
                self._take_still(index)
        # 2. Verbs, each with its direction
        for index, token in enumerate(self.tokens):
            if token.entry.verb is None or index in self.used:
                continue
            if self._ends_an_orbit(token, token.entry.verb):
                self.used.add(index)
            elif self._is_camera_verb(index, token.entry.verb):
                self._take_verb(index, token.entry.verb)
        # 3. A refused "camera movement", a bare "camera to the left", or words that we cannot name
        if not self.tags and not self.verbs and not self.is_refused:
            self._take_without_verb()
        is_camera = bool(self.used or self.nouns)
        return CameraReading(
            tags=tuple(dict.fromkeys(self.tags)),
            chosen=tuple(dict.fromkeys(self.chosen)),
            used=frozenset(self.used | set(self.nouns) if is_camera else ()),
            is_topic=is_camera or (self.topic and not self._has_content(0, len(self.tokens))),
            is_unclear=self.is_unclear,
        )

    # Who moves

    def _is_moving_camera(self, index: int, token: Token) -> bool:
        """A camera noun that can be the one that moves: not looked at, not held, not a place."""
        if not token.has("noun", "weak_noun") or (token.entry.verb and not self._is_subject_free(index)):
            return False
        following = self._at(index + 1)
        if following is not None and following.has("locative"):
            beyond = self._at(index + 2)
            is_way = following.entry.is_tight and beyond is not None and beyond.entry.verb is not None
            if not is_way:
                return False
        before = index - 1
        while before >= 0 and (self.tokens[before].has("determiner") or self.tokens[before].entry.amount):
            before -= 1
        if before < 0 or not self.tokens[before].has("governor"):
            return True
        return before == 0 and self.tokens[0].word == "with"

    def _is_camera_verb(self, index: int, verb: Verb) -> bool:
        if self._describes_a_thing(index):
            return False
        if self._is_about_the_camera(index):
            return True
        if verb.strength == "sure":
            return not self._moves_a_thing(index) and self._is_complete(index, verb)
        if self.topic and self._is_subject_free(index) and not self._content_follows(index):
            return True
        return verb.strength == "bare" and self._is_subject_free(index) and self._is_complete(index, verb)

    def _ends_an_orbit(self, token: Token, verb: Verb) -> bool:
        """围绕花瓶旋转 is one move."""
        kinds = {self.tokens[index].entry.verb for index in self.verbs}
        is_orbiting = any(found is not None and found.kind == "orbit" for found in kinds)
        return is_orbiting and not token.is_latin and verb.kind in ("rotate", "turn", "orbit", "move")

    def _is_complete(self, index: int, verb: Verb) -> bool:
        """Without the word camera a verb must say by itself where the camera goes (an orbit goes round)."""
        if verb.kind in ("orbit", "follow", "handheld") or (verb.strength == "sure" and "chosen" in self._moves(verb)):
            return True
        return "implied" in self._moves(verb) or self._direction(index, verb) is not None

    def _is_about_the_camera(self, index: int) -> bool:
        """Whether the camera is the subject or the direct object of the word at `index`."""
        for noun in reversed(self.nouns):
            if noun < index:
                return self._reaches(noun, index)
        return self._camera_is_object(index)

    def _camera_is_object(self, index: int) -> bool:
        """推近镜头, "move the camera", 缓慢推近的镜头: the camera right behind the verb, and nobody before it."""
        after = index + 1
        while (token := self._at(after)) is not None and (
            token.has("determiner", "function") or token.entry.pace or token.entry.direction
        ):
            after += 1
        return after in self.nouns and not self.tokens[index].has("governor") and self._is_subject_free(index)

    def _reaches(self, noun: int, index: int) -> bool:
        """Whether the camera at `noun` is the subject at `index`: nobody else between, but for "over the lake"."""
        content = [place for place in range(noun + 1, index) if self.tokens[place].is_content]
        if not content:
            return True
        if not any(token.has("preposition") for token in self.tokens[noun + 1 : content[0]]):
            return False
        before = index - 1
        while before > noun and (self.tokens[before].entry.pace or self.tokens[before].has("function")):
            if self.tokens[before].word == "and":
                return True
            before -= 1
        is_first = not any(noun < verb < index for verb in self.verbs)
        return is_first and not self.tokens[index].word.split(" ")[0].endswith("ing")

    def _is_subject_free(self, index: int) -> bool:
        """Nobody stands before the word in its clause, or since a space between Chinese words."""
        start = 0
        for place in range(index, 0, -1):
            if self.tokens[place].after_gap:
                start = place
                break
        before = self.tokens[start:index]
        if before and before[-1].has("determiner") and before[-1].is_latin:
            return False
        return not any(token.is_content or token.has("patient") for token in before)

    def _moves_a_thing(self, index: int) -> bool:
        """Whether a sure verb still has another subject or object: 灯光拉近, "a car zooms out of the garage".

        Somebody who already does something is not its subject: 海浪拍打礁石推近.
        """
        before = self.tokens[:index]
        if not any(token.is_content for token in before):
            return False
        holder = next((token for token in reversed(before) if not token.has("determiner")), None)
        first = next(index for index, token in enumerate(before) if token.is_content)
        is_subject = not any(token.has("preposition") for token in before[:first])
        if is_subject and not any(token.entry.action for token in before):
            return True
        if any(token.has("patient") for token in before) or (holder is not None and holder.has("governor")):
            return True
        points = any(token.entry.direction and not token.entry.is_tight for token in self.tokens[index + 1 :])
        return points or self._content_follows(index, past_prepositions=True)

    def _describes_a_thing(self, index: int) -> bool:
        """向左移动的女孩: a verb before 的 and a thing belongs to the thing. 摇向右边的山 does not."""
        if self.tokens[index].word.endswith(_TOWARD_ENDINGS):
            return False
        after = index + 1
        while (token := self._at(after)) is not None and token.entry.direction:
            after += 1
        token, thing = self._at(after), self._at(after + 1)
        return token is not None and token.word == "的" and thing is not None and thing.is_content

    def _content_follows(self, index: int, *, past_prepositions: bool = False) -> bool:
        for token in self.tokens[index + 1 :]:
            if token.is_content:
                return True
            if token.has("preposition") and not past_prepositions and not token.entry.direction:
                return False
        return False

    # What it does

    def _take_still(self, index: int) -> None:
        following = self._at(index + 1)
        if self.tokens[index].word == "still" and following is not None and following.entry.verb:
            return  # "is still moving"
        if self._is_negated(index):
            self.is_refused = True
            return
        self.tags.append("static")
        self.used.add(index)

    def _take_verb(self, index: int, verb: Verb) -> None:
        self.verbs.append(index)
        found = self._direction(index, verb)
        if self._is_negated(index):
            self.is_refused = True
            if verb.kind == "move" and found is None and self.nouns:
                self.tags.append("static")
            return
        self.used.add(index)
        moves = self._moves(verb)
        place, direction = found or (None, verb.direction)
        if place is not None:
            self.used.add(place)
        if direction == "unclear":
            self.is_unclear = True
        elif direction is not None:
            self.tags.append(moves[direction])
            if direction == "around":
                self.chosen.append(moves[direction])
        elif "implied" in moves:
            self.tags.append(moves["implied"])
        elif "chosen" in moves:
            self.tags.append(moves["chosen"])
            self.chosen.append(moves["chosen"])
        else:
            self.is_unclear = True

    def _take_without_verb(self) -> None:
        movement = [index for index, token in enumerate(self.tokens) if token.has("movement")]
        if movement and self._is_negated(movement[0]):
            self.tags.append("static")
            self.used.update(movement)
            return
        ways: list[tuple[int, Direction]] = [
            (index, token.entry.direction)
            for index, token in enumerate(self.tokens)
            if token.entry.direction and not token.entry.is_tight
        ]
        is_only_about_it = (self.nouns or self.topic) and not self._has_content(0, len(self.tokens))
        if ways and is_only_about_it and not self._is_negated(ways[0][0]):
            for index, direction in ways:
                self._take_way(index, direction)
            return
        strong = [index for index in self.nouns if self.tokens[index].has("noun")]
        if strong and not self._is_negated(strong[0]):
            following = self._at(strong[0] + 1)
            speaks = following is not None and following.is_content
            is_framing = any(token.has("framing") or token.entry.footage for token in self.tokens)
            self.is_unclear = self.is_unclear or (speaks and not is_framing)

    def _take_way(self, index: int, direction: Direction) -> None:
        self.used.add(index)
        moves = self.lexicon.moves["pan"] if direction in self.lexicon.moves["pan"] else self.lexicon.moves["move"]
        if direction in moves:
            self.tags.append(moves[direction])
        else:
            self.is_unclear = True

    def _is_negated(self, index: int) -> bool:
        """Refused by a word before it in the clause; "not too fast" refuses the degree, not the move."""
        for place in range(index - 1, -1, -1):
            if self.tokens[place].has("negator"):
                return not any(token.has("degree") for token in self.tokens[place + 1 :])
        return False

    # Where it goes

    def _direction(self, index: int, verb: Verb) -> tuple[int | None, Direction] | None:
        """The direction of the verb at `index` and the token that says so (None: the verb itself)."""
        moves = self._moves(verb)
        if verb.direction is not None and self.tokens[index].is_latin:
            return None, verb.direction
        places = self._places_after(index) if self._looks_ahead(index) else self._places_before(index)
        other = self._places_before(index) if self._looks_ahead(index) else self._places_after(index)
        for place in places + other:
            direction = self.tokens[place].entry.direction
            if direction is not None and (direction in moves or direction == "unclear"):
                return place, direction
        return (None, verb.direction) if verb.direction is not None else None

    def _looks_ahead(self, index: int) -> bool:
        return self.tokens[index].is_latin or self.tokens[index].word.endswith(_TOWARD_ENDINGS)

    def _places_after(self, index: int) -> list[int]:
        places = []
        is_latin = self.tokens[index].is_latin
        for place in range(index + 1, len(self.tokens)):
            token = self.tokens[place]
            if token.entry.verb and not token.entry.direction:
                break
            if token.is_content and not is_latin and not token.entry.direction:
                break
            if token.entry.direction and self._may_point(place, verb_end=index):
                places.append(place)
        return places

    def _places_before(self, index: int) -> list[int]:
        places = []
        for place in range(index - 1, -1, -1):
            token = self.tokens[place]
            if token.entry.direction:
                if not token.entry.is_tight or place == index - 1:
                    places.append(place)
            elif not (token.entry.pace or token.entry.amount or token.has("function", "determiner", "degree")):
                break
        return places

    def _may_point(self, place: int, *, verb_end: int) -> bool:
        """Tight words point only right behind the verb; "his left arm" and "in the forest" point nowhere."""
        token = self.tokens[place]
        before, after = self.tokens[place - 1], self._at(place + 1)
        if token.entry.is_tight:
            between = self.tokens[verb_end + 1 : place]
            is_place = token.word == "in" and after is not None and after.has("determiner")
            return all(word.entry.pace or word.entry.amount for word in between) and not is_place
        return not (token.is_latin and before.has("determiner") and after is not None and after.is_content)

    # Small helpers

    def _at(self, index: int) -> Token | None:
        return self.tokens[index] if index < len(self.tokens) else None

    def _moves(self, verb: Verb) -> Mapping[Way, CameraTag]:
        return self.lexicon.moves[verb.kind]

    def _has_content(self, start: int, end: int) -> bool:
        return any(token.is_content for token in self.tokens[start:end])
