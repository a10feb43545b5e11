#!/usr/bin/env bash
# Installs claude-bus from this checkout for the user, or removes it; see --help.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
config=${CLAUDE_CONFIG_DIR:-$HOME/.claude}
dir=${XDG_DATA_HOME:-$HOME/.local/share}/claude-bus
link=$HOME/.local/bin/claude-bus
verb=install

usage() {
  cat <<END
usage: bash install_claude_bus.sh [[--dir] DIR] [--uninstall]

Installs claude-bus from this checkout into DIR, proves that it works, and tells Claude Code about it: the MCP server
"bus" at user scope, the command /bus and the hooks in $config. Running it again upgrades.

  --dir DIR     where the program goes (unless given: $dir)
  --uninstall   remove all of it again, except the database (~/.claude-bus)
  --help        this text
END
}

main() {
  options "$@"
  unset PYTHONHOME PYTHONPATH
  "$verb"
}

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dir) [ -n "${2:-}" ] || fail "--dir needs a folder"; dir=$2; shift 2 ;;
      --dir=?*) dir=${1#--dir=}; shift ;;
      --uninstall) verb=uninstall; shift ;;
      -h | --help) usage; exit 0 ;;
      -*) usage >&2; exit 2 ;;
      *) dir=$1; shift ;;
    esac
  done
  dir=$(absolute "$dir")
  config=$(absolute "$config")
  command=$dir/bin/claude-bus
  mark=$dir/.claude-bus
}

# -- install --------------------------------------------------------------------------

install() {
  if [ ! -e "$mark" ] && [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
    fail "$dir is not empty, and not an installation of claude-bus: choose another place with --dir"
  fi
  python=$(find_python) || fail "no Python: install uv, or Python 3.11 or newer"
  say "Installing claude-bus $(version) into $dir ..."
  mkdir -p "$dir/bin"
  : > "$mark"
  environment
  program
  start_command "$command.new"
  say ""
  module "$app/src" claude_bus.selftest "$command.new" || { rm "$command.new"; fail "Claude Code was told nothing"; }
  mv -f "$command.new" "$command"
  say ""
  module "$app/src" claude_bus.claude_settings install "$config" "$app" "$dir"/app-*
  forget_older
  link_command
  register
  next_steps
}

# The packages it needs, with their hashes checked; made as for the plugin.
environment() {
  local log=$dir/install.log
  if ! environment=$("$python" -I "$here/.claude-plugin/environment.py" "$dir/environments" 2>"$log"); then
    tail -n 20 "$log" >&2
    fail "the packages could not be installed; the whole story is in $log"
  fi
  python=$environment/bin/python
}

find_python() {
  local candidate
  for candidate in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  command -v uv >/dev/null && uv run --quiet --no-project --python '>=3.11' python -c 'import sys; print(sys.executable)'
}

# The program as it is in this checkout, in a folder named for its content.
program() {
  local draft=$dir/.new-$$ part sum
  rm -rf "$dir"/.new-*
  mkdir "$draft"
  for part in .claude-plugin commands hooks src requirements.txt; do cp -R "$here/$part" "$draft/"; done
  find "$draft" -name __pycache__ -prune -exec rm -rf {} +
  sum=$(cd "$draft" && find . -type f -exec cksum {} + | sort | cksum)
  app=$dir/app-${sum%% *}
  if [ -d "$app" ]; then rm -rf "$draft"; else mv "$draft" "$app"; fi
}

start_command() {
  cat > "$1" <<END
#!/bin/sh
# Starts claude-bus; written by install_claude_bus.sh.
if [ ! -x $(quoted "$python") ]; then
  echo "claude-bus: its Python is gone; run install_claude_bus.sh again" >&2
  exit 1
fi
exec $(quoted "$python") -I -X utf8 $(quoted "$app/.claude-plugin/launch.py") --in $(quoted "$environment") "\$@"
END
  chmod 755 "$1"
}

quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# Sessions that run now may yet load files of the version before this one.
forget_older() {
  local place kept=""
  touch "$app"
  # shellcheck disable=SC2012 # names of our own
  ls -td "$dir"/app-* | while IFS= read -r place; do
    if [ -n "$kept" ] && [ "$place" != "$app" ]; then rm -rf "$place"; fi
    if [ "$place" != "$app" ]; then kept=$place; fi
  done
}

link_command() {
  if [ -e "$link" ] || [ -L "$link" ]; then
    if [ "$(readlink "$link" || true)" != "$command" ]; then
      say "$link is something else, and stays"
      return
    fi
  else
    mkdir -p "$(dirname "$link")"
    ln -s "$command" "$link"
  fi
  case :$PATH: in
    *:"$(dirname "$link")":*) say "the command claude-bus is on your PATH" ;;
    *) say "for the command claude-bus in your shell: export PATH=\"\$HOME/.local/bin:\$PATH\"" ;;
  esac
}

register() {
  local answer was
  if ! find_claude; then
    say "claude is not on your PATH. Run this where it is:"
    say "    claude mcp add -s user bus -- $(quoted "$command")"
    return
  fi
  if ! answer=$(add_server); then
    was=$(registered)
    [ -n "$was" ] || fail "claude mcp add: $answer"
    is_ours "$was" || replace_server "$was"
  fi
  say "server 'bus' is registered with Claude Code"
}

replace_server() {
  say "another server named 'bus' makes room; it was:"
  printf '%s\n' "$1" | grep '^  ' | grep -vE '^  (Status|Issue):' || true
  client mcp remove -s user bus >/dev/null
  add_server >/dev/null
}

next_steps() {
  cat <<'END'

Next: open two terminals, run claude in each, and type

    /bus backend        in one
    /bus frontend       in the other

From then on say what you want: "tell frontend that ...", "anything for me?", "who is connected?".
Sessions that are open now take part after a restart.
END
}

# -- uninstall ------------------------------------------------------------------------

uninstall() {
  local place
  python=$(find_python) || fail "no Python to edit Claude Code's settings with"
  if ! find_claude; then
    say "claude is not on your PATH. Run this where it is:"
    say "    claude mcp remove -s user bus"
  elif is_ours "$(registered)"; then
    client mcp remove -s user bus >/dev/null
    say "server 'bus' is no longer registered with Claude Code"
  fi
  module "$here/src" claude_bus.claude_settings uninstall "$config" "$here" "$dir"/app-*
  rmdir "$config" 2>/dev/null || true # it may be ours, and then it is empty
  if [ "$(readlink "$link" || true)" = "$command" ]; then rm "$link"; fi
  if [ -e "$mark" ]; then
    rm -rf "$dir/environments" "$dir"/app-* "$dir"/.new-* "$dir/install.log" "$command" "$command.new" "$mark"
    if rmdir "$dir/bin" "$dir" 2>/dev/null; then say "$dir is gone"; else say "$dir holds something else, and stays"; fi
  fi
  say "claude-bus is removed. Your messages and state are still in ${BUS_DB:-$HOME/.claude-bus/bus.db}"
}

# -- both -----------------------------------------------------------------------------

find_claude() {
  for claude in "$(command -v claude || true)" "$HOME/.claude/local/claude" "$HOME/.local/bin/claude"; do
    if [ -x "$claude" ]; then return 0; fi
  done
  return 1
}

# From a folder without a project: only what holds for the user counts.
client() { (cd "$dir" 2>/dev/null || cd /; exec "$claude" "$@" </dev/null); }
registered() { client mcp get bus 2>/dev/null || true; }
is_ours() { printf '%s\n' "$1" | grep -xF "  Command: $command" >/dev/null; }
add_server() { client mcp add -s user bus -- "$command" 2>&1; }

# Runs a module of the package in the folder $1.
module() { (cd / && PYTHONPATH=$1 exec "$python" -s -m "${@:2}"); }

absolute() { case $1 in /*) printf '%s' "${1%/}" ;; *) printf '%s' "$PWD/${1%/}" ;; esac; }
version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$here/src/claude_bus/__init__.py"; }
say() { printf '%s\n' "$1"; }
fail() { printf 'install_claude_bus.sh: %s\n' "$1" >&2; exit 1; }

main "$@"
