# shellcheck shell=bash
# What start_app.sh and run_tests.sh share: messages in the person's language, and a Python environment that fits.
# Knows nothing about the studio itself. Written for bash 3.2, which is what macOS has.

: "${root:?must be set to the folder of the checkout by the script that sources this}"

case "${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}" in
  zh*) speak=zh ;;
  *) speak=en ;;
esac

say() { # say ENGLISH CHINESE
  if [ "$speak" = zh ]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi
}
success() { say "[SUCCESS] $1" "[SUCCESS] $2"; }
info() { say "[INFO] $1" "[INFO] $2"; }
error() { say "[ERROR] $1" "[ERROR] $2" >&2; }
fail() {
  error "$1" "$2"
  exit 1
}

probe() { "$python" "$root/scripts/probe.py" "$@"; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# Sets `base_python` to the interpreter that a new environment is made with: $PYTHON, or the first that will do.
find_base_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail \
      "PYTHON=$PYTHON is not a Python 3.10 or newer." \
      "PYTHON=$PYTHON 不是 Python 3.10 或更新的版本。"
    base_python=$PYTHON
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
    if is_new_enough "$candidate"; then
      base_python=$candidate
      return
    fi
  done
  fail "No Python 3.10 or newer was found. Install one, or name it: PYTHON=/path/to/python3 $0" \
    "没有找到 Python 3.10 或更新的版本。请安装，或指定其路径：PYTHON=/path/to/python3 $0"
}

# Sets `python` and `environment` (its name for people): the active virtualenv or conda environment, else .venv.
choose_environment() {
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    python=$VIRTUAL_ENV/bin/python
    environment=$VIRTUAL_ENV
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
    python=$CONDA_PREFIX/bin/python
    environment="conda ${CONDA_DEFAULT_ENV:-$CONDA_PREFIX}"
  else
    if [ -n "${CONDA_PREFIX:-}" ]; then
      info "conda's base environment is left as it is; the studio uses its own, .venv. Activate another to use that." \
        "不改动 conda 的 base 环境，改用项目自己的 .venv；如需使用其他 conda 环境，请先激活它。"
    fi
    use_own_environment
    return
  fi
  if ! is_new_enough "$python"; then
    info "The active environment ($environment) has no Python 3.10 or newer; .venv is used instead." \
      "当前激活的环境（$environment）没有 Python 3.10 或更新的版本，改用 .venv。"
    use_own_environment
  fi
}

use_own_environment() {
  environment=.venv
  python=$root/.venv/bin/python
  # An interrupted creation leaves a Python without pip; an upgraded system leaves one that no longer starts.
  if "$python" -c 'import pip' >/dev/null 2>&1 && is_new_enough "$python"; then return; fi
  find_base_python
  info "Making the environment .venv with $base_python ..." "正在用 $base_python 创建环境 .venv ..."
  "$base_python" -m venv --clear "$root/.venv" || fail \
    "The environment could not be made (see above). On Debian and Ubuntu: apt-get install python3-venv" \
    "环境创建失败（原因见上）。Debian 与 Ubuntu 请执行：apt-get install python3-venv"
}

# install_requirements FILE STAMP-NAME: installs only when the file or the Python changed since the last time.
install_requirements() {
  local stamp_path wanted
  stamp_path=$("$python" -c 'import sys; print(sys.prefix)')/.studio-$2
  wanted=$(probe stamp "$root/requirements.txt" "$root/$1") || exit 1
  if [ -f "$stamp_path" ] && [ "$(cat "$stamp_path")" = "$wanted" ]; then return; fi
  info "Installing $1 into $environment; this is done once and may take some minutes ..." \
    "正在把 $1 安装到 $environment，仅需一次，可能要几分钟 ..."
  # Relative paths inside a requirements file are meant from the file's folder.
  (cd "$root" && "$python" -m pip install --disable-pip-version-check --no-input -r "$1") || fail \
    "Installing $1 failed (see above). Check the network and the free disk space, then start again." \
    "安装 $1 失败（原因见上）。请检查网络和磁盘空间后重试。"
  printf '%s\n' "$wanted" >"$stamp_path"
}
