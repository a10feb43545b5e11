#!/usr/bin/env bash
# Installs claude-bus from this checkout for the user, or removes it; see --help.
# Runs in any bash from 3.2 on, which is what macOS has.
set -euo pipefail
unset CDPATH
umask go-w # no other user may write where the program is

verb=install
answers=(--yes --permissions ask)
newline='
'

usage() {
  cat <<END
usage: bash install_claude_bus.sh [[--dir] DIR] [--yes] [--uninstall]

Installs claude-bus from this checkout into DIR, proves that it works, and tells Claude Code about it: the MCP server
"bus" at user scope, the command /bus and the hooks in $config. Running it again upgrades.

  --dir DIR     where the program goes (unless given: $dir)
  --yes         ask nothing; sessions may also use the bus's tools without asking
  --uninstall   remove all of it again, except the database (~/.claude-bus)
  --help        this text
END
}

main() {
  case ${HOME:-} in /*) ;; *) fail "HOME is not set to your home folder, so there is no place to install to" ;; esac
  config=${CLAUDE_CONFIG_DIR:-$HOME/.claude}
  dir=${XDG_DATA_HOME:-$HOME/.local/share}/claude-bus
  options "$@"
  checkout
  unset PYTHONHOME PYTHONPATH
  "$verb"
}

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dir) [ $# -gt 1 ] || fail "--dir needs a folder after it"; dir=$2; shift 2 ;;
      --dir=*) dir=${1#--dir=}; shift ;;
      --yes) answers=(--yes); shift ;;
      --uninstall) verb=uninstall; shift ;;
      -h | --help) usage; exit 0 ;;
      -*) refuse "there is no option $1; --help shows those there are" ;;
      *) dir=$1; shift ;;
    esac
  done
  place_of_program
}

# Checks $dir before anything is done in it: a later removal must not affect any other files.
place_of_program() {
  local folder
  case $dir in
    "") refuse "--dir needs a folder after it" ;;
    -*) refuse "a folder whose name begins with a dash is taken for a mistyped option: $dir" ;;
    *"$newline"*) refuse "the name of the folder has a line break in it; choose another one with --dir" ;;
  esac
  dir=$(absolute "$dir")
  folder=$(cd "$dir" 2>/dev/null && pwd -P) || folder=$dir
  case $folder in / | */.. | */../* | "$(cd "$HOME" && pwd -P)") refuse "$dir is no folder for a program alone; choose one with --dir" ;; esac
  [ ! -d "$dir/.claude-bus" ] || refuse "$dir is where a database of claude-bus is; choose another folder with --dir"
  command=$dir/bin/claude-bus
  mark=$dir/.claude-bus
  folders=$dir/folders-made # `setup` uses it too: folders that are removed again once they are empty
}

# Finds the checkout that this script is in. A script that is read from a pipe, or copied alone, has none.
checkout() {
  local script=${BASH_SOURCE[0]:-}
  here=""
  if [ -f "$script" ]; then here=$(cd "$(dirname "$script")" && pwd); fi
  if [ -z "$here" ] || [ ! -f "$here/.claude-plugin/environment.py" ] || [ ! -f "$here/src/claude_bus/__init__.py" ]; then
    fail "this script installs the checkout it is in, and it is not in one. Clone the repository and run the script there"
  fi
}

# -- install --------------------------------------------------------------------------

install() {
  if [ ! -e "$mark" ] && [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
    fail "$dir is not empty, and not an installation of claude-bus: choose another place with --dir"
  fi
  need_python
  say "Installing claude-bus $(version) into $dir ..."
  # All files get the permissions of the user's umask: a copy in /opt is for all users.
  local missing
  missing=$(missing_folders "$(dirname "$dir")"; missing_folders "$HOME/.cache") # where the scanner keeps its rules
  { mkdir -p "$dir/bin" "$dir/environments" && : > "$mark"; } || fail "$dir cannot be written; choose another folder with --dir"
  [ -e "$folders" ] || say "$missing" > "$folders"
  environment
  program
  compile_rules >/dev/null 2>&1 </dev/null &
  local rules=$!
  start_command "$command.new"
  say ""
  module "$app/src" claude_bus.selftest "$command.new" || { rm "$command.new"; fail "Claude Code was told nothing"; }
  mv -f "$command.new" "$command"
  forget_older
  say ""
  wait "$rules" || true # they are then compiled by the first session
  setup || fail "the program is installed, but Claude Code is not set up; see above, then run: $(quoted "$command") setup"
}

# Compiles the rules of the secret scanner while the rest goes on: it takes seconds, and no first message is to wait.
compile_rules() {
  cd / && PYTHONPATH=$app/src exec "$python" -s -c 'from claude_bus.detector import compile_rules; compile_rules()'
}

# Without Claude Code (status 3) the program is installed, and says how to set Claude Code up later.
setup() {
  local status=0
  "$command" setup "${answers[@]}" || status=$?
  [ "$status" = 0 ] || [ "$status" = 3 ]
}

# Prints a folder and its parents, as far as they do not exist.
missing_folders() {
  local folder=$1
  while [ ! -e "$folder" ]; do
    say "$folder"
    folder=$(dirname "$folder")
  done
}

# Installs the needed packages, with their hashes checked, as for the plugin.
environment() {
  local log=$dir/install.log builder waited=0
  "$python" -I "$here/.claude-plugin/environment.py" --all "$dir/environments" >"$dir/.environment" 2>"$log" &
  builder=$!
  while kill -0 "$builder" 2>/dev/null; do
    if [ "$waited" = 5 ]; then printf 'Fetching the Python packages it needs; this takes up to a minute '; fi
    if [ "$waited" -ge 5 ] && [ $((waited % 5)) = 0 ]; then printf .; fi
    waited=$((waited + 1))
    sleep 0.2
  done
  if [ "$waited" -gt 5 ]; then say ""; fi
  if ! wait "$builder"; then
    rm -f "$dir/.environment"
    tail -n 20 "$log" >&2
    fail "the packages could not be installed; the whole story is in $log"
  fi
  environment=$(cat "$dir/.environment")
  rm "$dir/.environment"
  python=$environment/bin/python
}

# Copies the program of this checkout into a folder named for its content.
program() {
  local draft=$dir/.new-$$ part sum
  rm -rf "$dir"/.new-*
  mkdir "$draft"
  for part in .claude-plugin commands hooks src; do cp -R "$here/$part" "$draft/"; done
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

# Keeps the previous version, because running sessions may still load files of it.
forget_older() {
  local place before=""
  touch "$app"
  for place in "$dir"/app-*; do
    if [ "$place" != "$app" ] && { [ -z "$before" ] || [ "$place" -nt "$before" ]; }; then before=$place; fi
  done
  for place in "$dir"/app-*; do
    if [ "$place" != "$app" ] && [ "$place" != "$before" ]; then rm -rf "$place"; fi
  done
}

# -- uninstall ------------------------------------------------------------------------

uninstall() {
  need_python
  unset_up || fail "Claude Code's settings could not be put back; nothing is removed"
  if [ -f "$mark" ]; then
    local made folder
    made=$(LC_ALL=C sort -r "$folders" 2>/dev/null) || true # the inner ones first
    rm -rf "$dir/environments" "$dir"/app-* "$dir"/.new-* "$dir/.environment" "$dir/install.log" "$command" "$command.new" "$mark" "$folders"
    if rmdir "$dir/bin" "$dir" 2>/dev/null; then say "$dir is gone"; else say "$dir holds something else, and stays"; fi
    while IFS= read -r folder; do
      case $folder in /*) rmdir "$folder" 2>/dev/null || true ;; esac
    done <<< "$made"
  fi
  rmdir "$config" 2>/dev/null || true # the installer may have created it; then it is empty
  say "claude-bus is removed. Your messages and state are still in ${BUS_DB:-$HOME/.claude-bus/bus.db}"
}

# Uses this checkout's program, which also knows what earlier versions have left, and needs no packages for that.
unset_up() { module "$here/src" claude_bus setup --remove --yes --place "$dir"; }

# -- both -----------------------------------------------------------------------------

need_python() {
  python=$(find_python) || fail "needed is Python 3.11 or newer, or uv: https://docs.astral.sh/uv$(found_python)"
}

# Prints a Python that can run the program: one of the machine, or one that uv has or fetches.
find_python() {
  local candidate
  for candidate in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python "$dir"/environments/*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  command -v uv >/dev/null && uv run --quiet --no-project --python '>=3.11' python -c 'import sys; print(sys.executable)'
}

# Prints the first Python on PATH and its version, for the message that it is too old.
found_python() {
  local candidate told
  for candidate in python3 python; do
    if told=$("$candidate" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
      printf ' (%s here is %s)' "$candidate" "$told"
      return
    fi
  done
}

# Runs a module of the package in the folder $1.
module() { (cd / && PYTHONPATH=$1 exec "$python" -s -m "${@:2}"); }

# Prints the absolute path of a folder that need not exist.
absolute() {
  local path=$1 tail=""
  case $path in /*) ;; *) path=$PWD/$path ;; esac
  while [ ! -d "$path" ]; do
    tail=/${path##*/}$tail
    path=${path%/*}
    path=${path:-/}
  done
  path=$(cd "$path" && pwd)$tail
  while [ "$path" != "${path%/}" ]; do path=${path%/}; done
  printf '%s' "${path:-/}"
}

version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$here/src/claude_bus/__init__.py"; }
say() { printf '%s\n' "$1"; }
fail() { printf 'install_claude_bus.sh: %s\n' "$1" >&2; exit 1; }
refuse() { printf 'install_claude_bus.sh: %s\n' "$1" >&2; exit 2; }

main "$@"
