"""What commands found, as text for people: one screen, nothing cut."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from drtool.backup import Outcome as BackupOutcome
from drtool.backup import Preview
from drtool.capabilities import Capability
from drtool.check import Answer
from drtool.copy import Copied
from drtool.core.command import Command
from drtool.core.host import Host
from drtool.core.model import IndexedMember, Manifest
from drtool.core.plan import PutBack, Restore, Send, Step
from drtool.deep import Report as Tried
from drtool.diff import Comparison
from drtool.errors import ObjectiveBreached
from drtool.extract import Extracted
from drtool.initialise import Made
from drtool.isolating import Isolation, Lifted
from drtool.restore import Outcome as RestoreOutcome
from drtool.restore import Prepared
from drtool.ui import mark, seconds_text, size_text, table, time_text
from drtool.verify import StoreVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

_FEW_WORDS = 5


_NOT_BYTES = ("verdict", "age")
"""Checks of a verification that another copy of the set fails as well."""
_COUNTED = ("projects", "groups", "users", "refs", "rows")


def made_text(made: Made) -> str:
    return f"""\
Made:
  {made.config}
  {made.signing_key}  signs the backups; stays on this host
  {made.identity}  opens the backups; must NOT stay only here

Keep offline, in two places that do not burn down together:
  1. {made.identity}: without it no backup of yours can ever be opened. Move it away from this host.
  2. the public signing key, to tell your backups from somebody else's:
     {made.public_key}

Then:
  look through {made.config}, above all [store.main]
  drtool check --config {made.config}
  drtool backup --config {made.config}"""


def answers_text(answers: Sequence[Answer], *, more_is_wrong: bool = False) -> str:
    lines = []
    for answer in answers:
        if answer.error is None and answer.advice:
            lines.append(f"{mark('warn')}    {answer.question}: {answer.found}")
            lines.append(f"        → {answer.advice}")
        elif answer.error is None:
            lines.append(f"{mark('ok')}      {answer.question}: {answer.found}")
        else:
            lines.append(f"{mark('bad')}  {answer.question}: {answer.error}")
            if answer.error.hint:
                lines.append(f"        → {answer.error.hint}")
    bad = sum(answer.error is not None for answer in answers)
    if bad:
        lines.append(f"{bad} of {len(answers)} not right")
    elif not more_is_wrong:
        lines.append("A backup can be taken.")
    return "\n".join(lines)


def tried_text(tried: Tried) -> str:
    """The table of a deep check, then what to do about it, then which objects it left."""
    words = {"ok": "ok", "note": "note", "bad": "FAILED", "unknown": "?"}
    cells = [(words[row.verdict], row.name, row.declared, row.seen) for row in tried.capabilities]
    lines = [f"{tried.store}, tried below {tried.scratch}", table(cells, ("", "CAPABILITY", "DECLARED", "SEEN"))]
    lines += [line for row in tried.capabilities for line in _advice(row)]
    for contract in tried.contracts:
        if contract.error:
            lines += [f"{mark('bad')}  {contract.error}", f"        → {contract.error.hint}"]
    kept = sum(not (contract.error or contract.not_asked) for contract in tried.contracts)
    lines.append(f"{kept} of {len(tried.contracts)} contracts kept")
    for contract in tried.contracts:
        if contract.not_asked:
            lines.append(f"  not asked: {contract.name.replace('_', ' ')}: {contract.not_asked}")
    if tried.left:
        lines.append(f"{mark('warn')}    {len(tried.left)} scratch objects stay below {tried.scratch}")
        lines.append("        → Nothing else is there: whoever may delete can remove all of it. --json names each key.")
    wrong = len(tried.errors)
    lines.append(f"{wrong} problems: no store for backups before they are solved." if wrong else "The store will do.")
    return "\n".join(lines)


def _advice(row: Capability) -> list[str]:
    if row.error:
        lines = [f"{mark('bad')}  {row.name}: {row.error}"]
        return [*lines, f"        → {row.error.hint}"] if row.error.hint else lines
    return [f"{mark('warn')}    {row.name}: {row.seen}", f"        → {row.hint}"] if row.hint else []


def preview_text(preview: Preview) -> str:
    what = "continue the interrupted set" if preview.action == "continue" else "begin a new set"
    lines = [f"Would {what} of GitLab {preview.gitlab_version}, into {preview.store}:"]
    lines += [f"  {command}" for command in preview.commands]
    lines.append("  pack, seal and send GitLab's members and the configuration; sign; commit; remove the staged files")
    return "\n".join(lines)


def backup_text(outcome: BackupOutcome) -> str:
    manifest = outcome.manifest
    seconds = (manifest.finished_at - manifest.created_at).total_seconds()
    how = "continued and committed" if outcome.continued else "committed"
    lines = [
        f"{manifest.set_id} {how}: GitLab {manifest.gitlab.version}, {manifest.gitlab.repositories} repositories,"
        f" {size_text(manifest.plain_size)} in {len(manifest.volumes)} volumes, {seconds_text(seconds)}"
    ]
    lines += [f"  {finding.message}" for finding in manifest.findings]
    return "\n".join(lines)


def copied_text(copied: Copied) -> str:
    if copied.was_there:
        return _was_there_text(copied)
    if not copied.sent and not copied.by_store:
        return f"{copied.set_id} is complete in {copied.store}; nothing had to be sent"
    within = f"{copied.by_store} volumes by the store itself, read back; " if copied.by_store else ""
    sent = f"{copied.sent} volumes, {size_text(copied.bytes_sent)} sent"
    return f"{copied.set_id} copied to {copied.store}: {within}{sent}"


def _was_there_text(copied: Copied) -> str:
    """Claim no more than was looked at."""
    looked = "all of it read" if copied.looked_at == "bytes" else "each volume at its size (--mend reads them too)"
    if not copied.wrong:
        return f"{copied.set_id} is in {copied.store} already, {looked}; nothing had to be sent"
    within = f"{copied.by_store} volumes by the store itself, read back; " if copied.by_store else ""
    lines = [
        f"{copied.set_id} mended in {copied.store}: {within}{copied.sent} volumes, {size_text(copied.bytes_sent)} sent"
    ]
    return "\n".join([*lines, *(f"  was wrong: {each}" for each in copied.wrong)])


def show_text(manifest: Manifest, *, signed: bool) -> str:
    facts = manifest.gitlab
    seconds = (manifest.finished_at - manifest.created_at).total_seconds()
    head = [
        ("set", manifest.set_id),
        ("instance", manifest.instance),
        ("taken", f"{time_text(manifest.created_at)}, in {seconds_text(seconds)}, by {manifest.tool}"),
        ("signature", "valid" if signed else "not checked"),
        ("verdict", manifest.verdict),
        ("gitlab", f"{facts.version} ({facts.installation_type or facts.install}), schema {facts.db_version}"),
        ("restore needs", facts.package or f"exactly GitLab {facts.version}; no package of it was published"),
        ("repositories", str(facts.repositories)),
        ("size", f"{size_text(manifest.plain_size)} plain, {size_text(manifest.stored_size)} stored"),
        *_judged(manifest),
    ]
    lines = [f"{name:<14} {value}" for name, value in head]
    for archive in manifest.archives:
        sealed = f"sealed to {', '.join(archive.recipients)}" if archive.recipients else "in clear"
        lines.append(f"{archive.name:<14} {len(archive.volumes)} volumes, {archive.members} members, {sealed}")
    lines += [f"{finding.severity + ' finding':<14} {finding.message}" for finding in manifest.findings]
    return "\n".join(lines)


def _judged(manifest: Manifest) -> list[tuple[str, str]]:
    lines = []
    counts = {tally.name: tally.count for tally in manifest.contents}
    if shown := [f"{counts[name]} {name}" for name in _COUNTED if name in counts]:
        lines.append(("contents", ", ".join(shown)))
    if secrets := manifest.secrets:
        how = "all of them" if secrets.complete else "a sample"
        lines.append(("secrets", f"{secrets.fit}; {secrets.opened} values open, {secrets.failed} do not ({how})"))
    return lines


def verdict_text(verdict: Verdict) -> str:
    of = f" of {verdict.of_volumes}" if verdict.volumes != verdict.of_volumes else ""
    read = size_text(verdict.bytes_read)
    looked = {
        "present": f"{verdict.volumes} volumes are there at their full size",
        "digest": f"{verdict.volumes}{of} volumes, {read} read and compared",
        "contents": f"{verdict.volumes} volumes, {read} unsealed and judged",
    }[verdict.level]
    notes = [f"  {mark('warn')} {finding.message}" for finding in verdict.findings]
    if not verdict.problems:
        return "\n".join([f"{mark('ok')} {verdict.set_id}: {looked}; signature {verdict.signature}", *notes])
    bad = [check for check in verdict.checks if check.problems]
    lines = [f"{mark('bad')} {verdict.set_id}: {len(bad)} of {len(verdict.checks)} checks failed; {looked}"]
    lines += [f"  {check.name}: {problem}" for check in bad for problem in check.problems]
    return "\n".join([*lines, *notes])


def store_verdicts_text(found: Sequence[StoreVerdict]) -> str:
    """Each store under its name."""
    return "\n\n".join(f"{each.store}\n{_store_verdict_text(each)}" for each in found)


def _store_verdict_text(found: StoreVerdict) -> str:
    if found.verdict:
        return verdict_text(found.verdict)
    assert found.error
    hint = [f"        → {found.error.hint}"] if found.error.hint else []
    return "\n".join([f"{mark('bad')}  {found.error}", *hint])


def mending_text(found: Sequence[StoreVerdict], stores: Sequence[str]) -> str:
    """For each damaged set the command that mends it, from a store that may hold it whole; empty if there is none."""
    lines = []
    for each in found:
        if each.verdict is None or all(not check.problems or check.name in _NOT_BYTES for check in each.verdict.checks):
            continue
        no_better = {other.store for other in found if other.exit_status not in (0, ObjectiveBreached.exit_status)}
        if sources := [name for name in stores if name not in {each.store, *no_better}]:
            command = f"drtool copy {each.verdict.set_id} --from {sources[0]} --to {each.store} --mend"
            lines.append(f"  → `{command}` sends again what is not intact.")
    return "\n".join(lines)


def fetched_text(paths: Iterable[Path]) -> str:
    return "\n".join(f"{path}  {size_text(path.stat().st_size)}" for path in paths)


def extracted_text(extracted: Extracted) -> str:
    return f"{extracted.path}  {size_text(extracted.size)}, from {extracted.volumes} volumes of {extracted.set_id}"


def comparison_text(found: Comparison) -> str:
    if not found.differences:
        return f"{mark('ok')} {found.second} holds what {found.first} holds"
    head = f"{found.second} differs from {found.first}:"
    return "\n".join([head, *(f"  {difference}" for difference in found.differences)])


def members_text(archives: Mapping[str, Sequence[IndexedMember]]) -> str:
    cells = [(name, size_text(member.size), member.name) for name, members in archives.items() for member in members]
    return table(cells, ("ARCHIVE", "SIZE", "MEMBER"))


def plan_text(prepared: Prepared, manifest: Manifest) -> str:
    plan, target = prepared.plan, prepared.target
    head = "Go on with" if prepared.resumed else "Restore"
    return "\n".join(
        (
            f"{head} {plan.set_id} ({manifest.instance}, GitLab {manifest.gitlab.version},"
            f" {manifest.gitlab.repositories} repositories, {size_text(manifest.plain_size)}) from {plan.store}",
            f"onto {target.system.hostname} ({target.name}), {_gitlab(target)}; run {plan.run_id}",
            *(f"  {mark('warn')} {found.message}. {found.remedy}" for found in prepared.warnings),
            *_step_lines(prepared),
        )
    )


def undo_text(prepared: Prepared, undone: str) -> str:
    plan, target = prepared.plan, prepared.target
    head = "Go on undoing" if prepared.resumed else "Undo"
    if not any(step.kind == "put-back" for step in plan.steps):
        staged = f"{head} {undone}: it replaced nothing on {target.system.hostname} ({target.name}); run {plan.run_id}"
        return "\n".join((staged, *_step_lines(prepared)))
    return "\n".join(
        (
            f"{head} {undone}: bring back what {target.system.hostname} ({target.name}) held before,",
            f"from the copies that {plan.copies} kept there; run {plan.run_id}",
            *_step_lines(prepared),
        )
    )


def _gitlab(target: Host) -> str:
    if target.installation is None:
        return "no GitLab"
    return f"GitLab {target.installation.version}, {_projects(target.projects)}"


def _step_lines(prepared: Prepared) -> Iterator[str]:
    finished = {entry["step"] for entry in prepared.journal.all("finished")}
    for number, step in enumerate(prepared.plan.steps, 1):
        yield f"{number:>3}. {step.title}{' (done)' if step.name in finished else ''}"
        yield from (f"     {command}" for command in _commands(step))


def restored_text(outcome: RestoreOutcome, prepared: Prepared, manifest: Manifest) -> str:
    total = sum(step.seconds for step in outcome.steps)
    names = {step.name for step in prepared.plan.steps}
    text = (
        f"{outcome.set_id} restored: GitLab {manifest.gitlab.version}, {manifest.gitlab.repositories} repositories,"
        f" in {seconds_text(total)}; receipt {outcome.run_id}"
    )
    if "compare" not in names:
        text += "\nWhat the host now holds was not counted, and not compared with the set."
    if "isolate-database" in names:
        text += "\nIt is isolated: `drtool isolation --on HOST` says how far, and ends it with --lift."
    if "safety-copy" in names:
        text += f"\nWhat was there before comes back with --undo {outcome.run_id}, as long as its copies are kept."
    return text


def isolation_text(found: Isolation, host: str) -> str:
    if not found.recorded and not found.configured:
        return f"{host} is not isolated."
    head = [f"{host} is isolated." if not found.findings else f"{host} is isolated in part:"]
    lines = [f"  {mark('bad')} {finding}" for finding in found.findings]
    lines += [f"  {each.stops}: {each.rows} stopped" for each in found.measures if each.rows]
    lines += [f"  {mark('warn')} not stopped by any of this: {name}" for name in found.not_stopped]
    return "\n".join(head + lines)


def lifted_text(lifted: Lifted, host: str) -> str:
    left = f"; {lifted.left} that somebody changed meanwhile were left so" if lifted.left else ""
    return f"{host}: {lifted.given_back} stopped things given back{left}."


def undone_text(outcome: RestoreOutcome, undone: str) -> str:
    total = sum(step.seconds for step in outcome.steps)
    return f"{undone} undone, what was there before is back, in {seconds_text(total)}; receipt {outcome.run_id}"


def _projects(count: int | None) -> str:
    if count is None:
        return "a database that does not answer"
    return "no projects" if count == 0 else f"{count} projects"


def _commands(step: Step) -> list[str]:
    match step:
        case Send():
            return [_shown(command) for command in (*step.before, step.unpack)]
        case Restore() | PutBack():
            return [_shown(step.clear), _shown(step.command)]
        case _:
            return [_shown(command) for command in getattr(step, "commands", ())]


def _shown(command: Command) -> str:
    """A command on one line: of a script only what it works on, names of one directory as a shell would take them."""
    if command.argv[:2] == ("sh", "-c"):
        return f"sh -c … {shlex.join(command.argv[3:4])}"
    words = list(command.argv)
    parents = {PurePosixPath(word).parent for word in words[words.index("--") + 1 :]} if "--" in words else set()
    if words[0] == "rm" and len(parents) == 1 and len(words) > _FEW_WORDS:
        names = ",".join(PurePosixPath(word).name for word in words[words.index("--") + 1 :])
        return f"rm -rf -- {parents.pop()}/{{{names}}}"
    return str(command)
