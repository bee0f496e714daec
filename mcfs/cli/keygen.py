"""`mcfs keygen`: a signing key for `mcfs-serve`, and what there is to see of one."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from mcfs.cli import terminal
from mcfs.cli.publisher import fingerprint_of, load_key, make_key
from mcfs.protocol.publisher import format_key


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-l", "--show", is_flag=True, help="Only show the key that is in FILE.")
def keygen(file: Path, show: bool) -> None:
    """Make a signing key for mcfs-serve in FILE, and print its public key and fingerprint.

    What is printed is no secret: clients take it as --publisher-key, on the command line or in a file.
    """
    terminal.log_to_stderr("mcfs", logging.WARNING)
    key = load_key(file) if show else make_key(file)
    click.echo(f"public key   {format_key(bytes(key.verify_key))}")
    click.echo(f"fingerprint  {fingerprint_of(key.verify_key)}")
