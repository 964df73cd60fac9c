"""One run of a command: what every leaf gets, and how its errors become output and an exit code."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blockvault.cli.exit_codes import ExitCode, exit_code_of
from blockvault.cli.failures import as_fields, explain, three_lines, traceback_of
from blockvault.config import DEFAULT_VAULT, load_settings
from blockvault.errors import AlreadyExistsError, BlockVaultError, NotFoundError, WrongKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blockvault.cli.progress import QuietMonitor
    from blockvault.cli.render import Output
    from blockvault.config.settings import Settings
    from blockvault.model import Secret
    from blockvault.monitor import Warned
    from blockvault.vault import Vault


class Call:
    """The common options of a command, its configuration, its vault, its output and its job."""

    def __init__(
        self, output: Output, *, vault_option: str | None, key_file: str | None, color: str | None = None
    ) -> None:
        self.output = output
        self.vault_option = vault_option
        self.key_file = key_file
        self._flags = {"general.vault": ("--vault", vault_option), "general.color": ("--color", color)}
        self._settings: Settings | None = None
        output.choose_color = self._color
        self.monitor: QuietMonitor | None = None
        self._warned: list[str] = []
        self._notices: tuple[Warned, ...] = ()

    @property
    def settings(self) -> Settings:
        """The configuration of this run, with what its options say; read once."""
        if self._settings is None:
            self._settings = load_settings({name: (flag, text) for name, (flag, text) in self._flags.items() if text})
        return self._settings

    def _color(self) -> str:
        """Whether to write colours. A configuration that cannot be read stops what needs it, and not this."""
        try:
            return self._flags["general.color"][1] or self.settings.general.color
        except BlockVaultError:
            return "auto"

    # --- the vault

    @property
    def vault_name(self) -> str:
        """The vault that `--vault`, the environment or the configuration names: a name or a folder."""
        return self.vault_option or self.settings.general.vault

    def open_vault(self) -> Vault:
        """Open the vault; ask for its passphrase on a terminal if the environment has none."""
        from blockvault.cli.passphrase import ask_secret, can_ask
        from blockvault.vault import Vault

        secret = self.secret()
        try:
            vault = Vault.open(self.vault_name, secret=secret)
        except WrongKeyError as error:
            if error.kind != "key.missing" or secret is not None or not can_ask():
                raise
            vault = Vault.open(self.vault_name, secret=ask_secret(self.vault_name, new=False))
        self._notices = vault.notices
        return vault

    def open_or_make_vault(self, images: tuple[str, ...]) -> Vault:
        """Open the vault; where there is no default vault yet, make it and say where.

        It is made only if every one of `images` can be opened: a mistyped path leaves nothing behind. It is made
        without encryption, as the zero set-up is, unless a secret is given: then with that.
        """
        from blockvault.image.source import ImageSource
        from blockvault.units import CHUNK_BYTES_DEFAULT
        from blockvault.vault import Vault

        try:
            return self.open_vault()
        except NotFoundError as error:
            if error.kind != "vault.not-found" or self.vault_name != DEFAULT_VAULT:
                raise
        for path in images:
            ImageSource.open(path, CHUNK_BYTES_DEFAULT).close()
        try:
            vault = Vault.create(DEFAULT_VAULT, secret=self.secret())
        except AlreadyExistsError:  # another process made it in the same moment
            return self.open_vault()
        kept = "encrypted" if vault.encrypted else "not encrypted"
        if not self.output.quiet:
            self.output.message("", f"made vault '{vault.name}' in {vault.path} ({kept})")
        return vault

    def secret(self, vault_name: str | None = None) -> Secret | None:
        """What `--key-file` and the environment give, for the vault that is meant or for another."""
        from blockvault.credentials import secret_from_environment

        return secret_from_environment(self.key_file, vault_name or self.vault_name)

    def new_secret(self, key_file: str | None) -> Secret:
        """The further secret of a vault: a key file, what the environment gives for it, or asked for twice."""
        from blockvault.cli.passphrase import ask_secret
        from blockvault.credentials import secret_from_environment

        found = secret_from_environment(key_file, self.vault_name, new=True)
        return found or ask_secret(self.vault_name, new=True, further=True)

    @property
    def vault_flag(self) -> str:
        """` --vault NAME` for a command that the user may type next; nothing for the default vault."""
        import shlex

        name = self.vault_name
        return "" if name == DEFAULT_VAULT else f" --vault {shlex.quote(name)}"

    # --- the job

    @contextmanager
    def job(self) -> Iterator[QuietMonitor]:
        """A running job: progress is shown, Ctrl-C and SIGTERM cancel it."""
        from blockvault.cli.progress import make_monitor
        from blockvault.cli.signals import cancelling

        self.monitor = make_monitor(self.output)
        try:
            with cancelling(self.monitor):
                yield self.monitor
        finally:
            self.monitor.close()
            if self.output.verbose:
                for name, amount in sorted(self.monitor.counters.items()):
                    self.output.message("count:", f"{name} {amount}")

    def warn(self, messages: tuple[str, ...]) -> None:
        """Tell the warnings of a result that were not told while the job ran."""
        told = {warned.message for warned in self.monitor.warnings} if self.monitor else set()
        for message in messages:
            if message not in told and message not in self._warned:
                self._warned.append(message)
                if self.output.as_json and self.monitor is None:
                    self.output.message("warning:", message, "yellow")  # standard output has one document
                else:
                    self.output.warning(message)

    # --- the end

    def run(self, body: Callable[[], int | None]) -> int:
        """Run the command's body; every error becomes three lines and an exit code."""
        try:
            code = body() or ExitCode.DONE
            self._tell_notices()
            self.output.results.flush()
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last handler: all get three lines
            return self.fail(error)
        if code == ExitCode.DONE and (self._warned or (self.monitor and self.monitor.warnings)):
            return ExitCode.WARNING
        return code

    def _tell_notices(self) -> None:
        """What opening the vault noticed of it, unless the job has told it."""
        self.warn(tuple(notice.message for notice in self._notices))

    def fail(self, error: BaseException) -> int:
        """Print the error and return its exit code."""
        self._tell_notices()
        known = explain(error)
        code = exit_code_of(known, self.monitor.signal_number if self.monitor else None)
        print_failure(self.output, known, code, error)
        return code


@contextmanager
def configured_by(config_file: str | None) -> Iterator[None]:
    """`--config FILE` is `BLOCKVAULT_CONFIG` of this run: whatever it starts reads the same configuration."""
    if config_file is None:
        yield
        return
    before = os.environ.get("BLOCKVAULT_CONFIG")
    os.environ["BLOCKVAULT_CONFIG"] = os.path.abspath(config_file)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BLOCKVAULT_CONFIG"]
        else:
            os.environ["BLOCKVAULT_CONFIG"] = before


def print_failure(output: Output, known: BlockVaultError, code: int, error: BaseException) -> None:
    """Three lines on standard error; with `--json` the same as one JSON line among the results."""
    detail = traceback_of(error) if output.verbose else None
    if detail:
        output.message("", detail.rstrip())
    for label, text in three_lines(known):
        output.message(label, text, "red" if label.startswith("error") else "bold")
    if output.as_json:
        output.document(as_fields(known, code))
