"""Arguments of the commands that the two earlier systems had as separate programs."""

from __future__ import annotations

import argparse

from ...cli.subcommands import Subcommands, Unmeasured

_RECV = (
    "Print the mail of NAME on the bus that AGENT_BUS_URL (or BUS_URL) names, one block per message as it comes: "
    "'[HH:MM:SSZ] from X:', the text, '---'. Made for Claude Code's Monitor tool. A cursor in the folder "
    "AGENT_BUS_STATE_DIR keeps the position; with AGENT_BUS_NO_CURSOR=1 nothing is kept, and each run starts at now. "
    "AGENT_BUS_UA is the User-Agent of the requests."
)
_LISTEN = (
    "Write the mail of AGENT_NAME on the bus that AGENT_BUS_URL (or BUS_URL) names into files: LOG (time, sender, the "
    "first 120 characters), FULL (the messages as JSON lines), HEARTBEAT (time of the last poll), PID_FILE. Files that "
    "are not named are in the folder AGENT_BUS_STATE_DIR, and so is the cursor, unless AGENT_BUS_NO_CURSOR=1. "
    "AGENT_BUS_UA is the User-Agent of the requests."
)
_SEND_FILE = (
    "Send a file in pieces of 5000 characters (gzip, base64) to a reader who shares no disk with you: to the bus that "
    "AGENT_BUS_URL (or BUS_URL) names, or with --as to our own. On one machine name the file instead: send --file PATH."
)
_RECV_FILE = "Put a file together from the pieces that send-file sent to you, and check its sha256."
_IMPORT = (
    "Store the messages of a file of JSON lines {id, ts, from, to, body, tags, acks}. Repeating it stores nothing "
    "twice; if a line is bad, nothing is stored."
)


def add(commands: Subcommands, shared: argparse.ArgumentParser, named: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    there = _there()
    commands.add("recv", _add_recv, [there], "print mail of an agent-bus", _RECV)
    commands.add("listen", _add_listen, [there], "write mail of an agent-bus into files", _LISTEN)
    commands.add("send-file", _add_send_file, [shared, named], "send a file in pieces", _SEND_FILE)
    commands.add("recv-file", _add_recv_file, [shared, named], "put a file together from its pieces", _RECV_FILE)
    commands.add("import", _add_import, [shared], "store messages of a file of JSON lines", _IMPORT)
    commands.add("export", _add_export, [shared], "write messages into a file of JSON lines")


def _add_recv(recv: argparse.ArgumentParser) -> None:
    recv.add_argument("name", help="whose mail")


def _add_listen(listen: argparse.ArgumentParser) -> None:
    listen.add_argument("name", nargs="?", default="", help="whose mail (default: AGENT_NAME)")


def _add_send_file(send: argparse.ArgumentParser) -> None:
    send.add_argument("to", metavar="PEER", help="a name")
    send.add_argument("path", metavar="PATH")
    send.add_argument("--tag", default="", help="what its pieces begin with (default: its name and digest)")
    send.add_argument("--allow-secret", action="store_true", help="send content that looks like a secret anyway")


def _add_recv_file(take: argparse.ArgumentParser) -> None:
    take.add_argument("tag", metavar="TAG")
    take.add_argument("--out", default="", metavar="PATH", help="where to write (default: the tag, in this folder)")
    take.add_argument("--from", dest="sender", default="", metavar="NAME", help="only from this sender")
    take.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_import(importing: argparse.ArgumentParser) -> None:
    importing.add_argument("file", metavar="FILE", help="JSON lines; '-' reads stdin")


def _add_export(exporting: argparse.ArgumentParser) -> None:
    exporting.add_argument("file", nargs="?", default="", metavar="FILE", help="where to write (default: stdout)")
    exporting.add_argument("--force", action="store_true", help="replace a file that is there")


def _there() -> argparse.ArgumentParser:
    """Return the option of commands that only use the bus of AGENT_BUS_URL, and print no document."""
    there = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=Unmeasured)
    there.add_argument("--channel", help="the channel there (default: AGENT_BUS_CHANNEL, or 'default')")
    return there
