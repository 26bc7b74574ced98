"""``witness serve``: cosigning other people's logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..evidence.witness import Witness, check_cosigners
from ..evidence.witness_keys import read_cosigners
from ..evidence.witness_state import WitnessState
from ..ledger.trust import parse_policy
from .output import err, fail, out

app = typer.Typer(help="Watch other people's logs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Watch other people's logs."""


@app.command("serve")
def serve_a_witness(
    state: Annotated[Path, typer.Option(help="The directory in which the witness remembers what it cosigned.")],
    key: Annotated[Path, typer.Option(help="The witness's key file, made by `keys new --cosigner`.")],
    trust: Annotated[Path, typer.Option(help="The logs it cosigns: a trust file with their `log` lines.")],
    new: Annotated[
        bool, typer.Option("--new", help="Make the directory: on the very first start, and never again.")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any.")] = 8090,
) -> None:
    """Cosign the checkpoints of logs, as C2SP tlog-witness has it, until SIGTERM or Ctrl-C."""
    try:
        import uvicorn
    except ImportError:
        fail("serving needs uvicorn: pip install 'uvicorn>=0.30'")
    from ..web.witness import serve_witness

    cosigners = read_cosigners(key)
    policy = parse_policy(trust.read_bytes())
    if not policy.logs:
        raise ConfigError(f"{trust}: lists no log; a witness cosigns the logs it is told of")
    check_cosigners(cosigners, policy)  # before anything is made
    memory = WitnessState.create(state) if new else WitnessState(state)
    witness = Witness(cosigners, policy, memory)
    for warning in memory.warnings:
        err.print(f"warning: {warning}", style="yellow")
    for one in cosigners:
        out.print(f"cosigns as {one.verifier.vkey}", soft_wrap=True)
    for origin in dict.fromkeys(log.verifier.name for log in policy.logs):
        out.print(f"the log    {origin}", soft_wrap=True)
    uvicorn.run(
        serve_witness(witness), host=host, port=port, server_header=False, log_level="info", limit_concurrency=256
    )
