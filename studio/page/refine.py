"""The refine step: what was typed, what was proposed, by whom, and what the person made of it.

Knows no component and renders nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Motion, PresetName, PromptOrigin, Text
from prompt_refiner import CheckedText, Fidelity, RefineResult, check_text, refine
from prompt_refiner.striking import places_of, strike_out
from prompt_refiner.types import Verdict
from studio.page.diff import REWRITTEN_BELOW, share_left
from studio.page.services import Services
from studio.page.words import WARNINGS
from studio.recipe import motion_of, origin_of, style_of

Fate = Literal["stands", "struck", "gone", "paraphrased"]
"""Of one addition: `gone` went along with another one, `paraphrased` has no words of its own to strike out."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """What the refiner says of picture and text; `unknown` where nobody looked."""

    verdict: Verdict = "unknown"
    reason: str = ""
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One refinement and what became of it. `is_used` once it stands in the prompt box.

    `origin` is as proposed, with all that was added; `struck` names the elements that the person struck out. `seen`
    are things known to be in the picture. `notices` say what the refiner did not do and why, `remarks` what it noticed
    about the picture. `preset` is the one that an LLM would choose.
    """

    origin: PromptOrigin
    motion: Motion
    compound: bool = False
    match: Match = Match()
    seen: tuple[str, ...] = ()
    latency_s: float = 0.0
    tokens: int | None = None
    tokens_are_exact: bool = False
    token_limit: int | None = None
    preset: PresetName | None = None
    preset_why: str = ""
    notices: tuple[Text, ...] = ()
    remarks: tuple[Text, ...] = ()
    struck: tuple[str, ...] = ()
    is_used: bool = False

    @property
    def text(self) -> str:
        """What is proposed, without what was struck out."""
        return strike_out(self.origin.refined, self.struck, typed=self.origin.typed)

    def fates(self) -> dict[str, Fate]:
        """What became of each addition, by its name."""
        text, typed = self.text, self.origin.typed

        def fate(element: str) -> Fate:
            if places_of(element, text, typed=typed):
                return "stands"
            if element in self.struck:
                return "struck"
            return "gone" if places_of(element, self.origin.refined, typed=typed) else "paraphrased"

        return {added.element: fate(added.element) for added in self.origin.added_elements}


_PROPOSAL = TypeAdapter(Proposal)


def propose(
    typed: str,
    spec: EngineSpec,
    services: Services,
    *,
    pictures: Sequence[bytes],
    subjects: Sequence[str] = (),
    fidelity: Fidelity,
    is_gone: Callable[[], bool],
) -> Proposal:
    """Asks the refiner; falls back to its offline rules by itself and says so in `notices`. May take its deadline,
    unless `is_gone` says that nobody waits any more."""
    result = refine(
        typed,
        style=style_of(spec),
        settings=services.refiner,
        mode="auto",
        picture=next(iter(pictures), None),
        further_pictures=pictures[1:],
        subjects=subjects,
        # A name that was typed stays as it was typed.
        locked=[name for name in subjects if name and name in typed],
        fidelity=fidelity,
        cancelled=is_gone,
    )
    match = result.image_text_match
    # What the offline rules would choose is told by the suggestions that come from the engine's own numbers.
    suggestion = result.suggestion if result.source == "llm" else None
    return Proposal(
        origin=origin_of(typed, result),
        motion=motion_of(result),
        compound=result.compound,
        match=Match(verdict=match.verdict, reason=match.reason, conflicts=match.conflicts),
        seen=result.image_elements,
        latency_s=result.latency_s,
        tokens=result.token_count,
        tokens_are_exact=result.token_count_is_exact,
        token_limit=spec.prompt_style.token_limit,
        preset=suggestion.preset if suggestion is not None else None,
        preset_why=suggestion.why if suggestion is not None else "",
        notices=tuple(Text(notice.en, notice.zh) for notice in result.notices),
        remarks=tuple(WARNINGS[code] for code in result.warnings),
    )


def taken_before(origin: PromptOrigin, motion: Motion) -> Proposal | None:
    """The proposal that a prompt of before came from; None for one that was typed."""
    if origin.source == "typed":
        return None
    whole = replace(origin, added_elements=(*origin.added_elements, *origin.struck_out), struck_out=(), edited=False)
    struck = tuple(each.element for each in origin.struck_out)
    return Proposal(origin=whole, motion=motion, struck=struck, is_used=True)


def struck_out(proposal: Proposal, index: int) -> Proposal:
    """The proposal without the addition at `index`."""
    element = proposal.origin.added_elements[index].element
    return replace(proposal, struck=(*(each for each in proposal.struck if each != element), element))


def restored(proposal: Proposal, index: int) -> Proposal:
    """The proposal with the addition at `index` back in its place."""
    element = proposal.origin.added_elements[index].element
    return replace(proposal, struck=tuple(each for each in proposal.struck if each != element))


def used(proposal: Proposal) -> Proposal:
    """The proposal, taken."""
    return replace(proposal, is_used=True)


def is_own_text(prompt: str, proposal: Proposal) -> bool:
    """Whether so little of the proposal is left in the prompt that it is the person's own text again."""
    text = proposal.text
    return prompt != text and share_left(text, prompt) < REWRITTEN_BELOW


def origin_for(prompt: str, proposal: Proposal | None) -> PromptOrigin:
    """Where the prompt in the box comes from: from the refiner only where its proposal was taken and is still there."""
    if proposal is None or not proposal.is_used or is_own_text(prompt, proposal):
        return origin_of(prompt, None)
    origin, text, fates = proposal.origin, proposal.text, proposal.fates()
    edited = prompt != text

    def is_left(element: str) -> bool:
        if fates[element] == "stands":
            return not edited or bool(places_of(element, prompt, typed=origin.typed))
        return fates[element] == "paraphrased"

    return replace(
        origin,
        added_elements=tuple(added for added in origin.added_elements if is_left(added.element)),
        struck_out=tuple(added for added in origin.added_elements if fates[added.element] in ("struck", "gone")),
        edited=edited,
    )


def movement_for(prompt: str, proposal: Proposal | None, spec: EngineSpec, services: Services) -> tuple[Motion, bool]:
    """The movement in the prompt, and whether subject and camera both move: as the refiner read it if its text stands
    there unchanged, else by the rules."""
    if proposal is not None and proposal.is_used and prompt == proposal.text:
        return proposal.motion, proposal.compound
    result = read_offline(prompt, spec, services)
    return motion_of(result), result.compound


def motion_for(prompt: str, proposal: Proposal | None, spec: EngineSpec, services: Services) -> Motion:
    """The movement in the prompt."""
    return movement_for(prompt, proposal, spec, services)[0]


def read_offline(prompt: str, spec: EngineSpec, services: Services) -> RefineResult:
    """What the rules read from the prompt; no request leaves."""
    return refine(prompt, style=style_of(spec), settings=services.refiner, mode="offline")


def check_edited(prompt: str, proposal: Proposal, spec: EngineSpec) -> CheckedText:
    """The prompt as the person edited it, held against what they had typed and what is in the picture."""
    return check_text(proposal.origin.typed, prompt, style_of(spec), seen=proposal.seen)


def to_json(proposal: Proposal | None) -> Any:  # noqa: ANN401 - any JSON value
    """For the draft that the browser keeps."""
    return None if proposal is None else _PROPOSAL.dump_python(proposal, mode="json")


def from_json(value: Any) -> Proposal | None:  # noqa: ANN401
    """A proposal from the browser's draft; None for anything else."""
    try:
        return _PROPOSAL.validate_python(value)
    except ValidationError:
        return None
