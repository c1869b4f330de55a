#!/usr/bin/env bash
# Makes the environment on the first run, checks the port, starts the studio. Nothing else.
# Runs from any directory and through a symbolic link; written for bash 3.2, which is what macOS has.
set -euo pipefail

source_path=${BASH_SOURCE[0]}
while [ -L "$source_path" ]; do
  link=$(readlink "$source_path")
  case "$link" in
    /*) source_path=$link ;;
    *) source_path=$(dirname "$source_path")/$link ;;
  esac
done
root=$(cd "$(dirname "$source_path")" && pwd -P)
# shellcheck source=scripts/environment.sh
. "$root/scripts/environment.sh"

start_timeout_s=180
# The studio gives a running job some seconds to finish before it ends.
stop_timeout_s=60

usage() {
  say "Usage: ./start_app.sh [--background | --status | --stop] [options]

  (nothing)       start the studio in this terminal; Ctrl+C stops it
  --background    start it, wait until the page answers, and return
  --status        say whether it runs, where, and where its log is
  --stop          stop it

  --host H        address to listen on (127.0.0.1; any other needs --auth)
  --port N        port of the page (7860)
  --auth USER:PASS
  --data DIR      where jobs and videos are kept (data)
  --workers N     worker processes (1)

PYTHON=/path/to/python3 chooses the Python that the environment .venv is made with." \
    "用法：./start_app.sh [--background | --status | --stop] [选项]

  （不带选项）    在当前终端启动，按 Ctrl+C 停止
  --background    后台启动，页面可以访问后返回
  --status        查看是否在运行、访问地址和日志位置
  --stop          停止

  --host H        监听地址（默认 127.0.0.1，其他地址必须同时使用 --auth）
  --port N        页面端口（默认 7860）
  --auth 用户名:密码
  --data 目录     任务和视频的保存位置（默认 data）
  --workers N     工作进程数（默认 1）

可用 PYTHON=/path/to/python3 指定创建 .venv 所用的 Python。"
}

# --- What is asked for -------------------------------------------------------------------------------------------

action=foreground
host=127.0.0.1
port=7860
data=${STUDIO_DATA:-$root/data}
serve_options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --background | --status | --stop)
      action=${1#--}
      shift
      continue
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --host=* | --port=* | --auth=* | --data=* | --workers=*)
      option=${1%%=*}
      value=${1#*=}
      shift
      ;;
    --host | --port | --auth | --data | --workers)
      if [ $# -lt 2 ]; then
        error "$1 needs a value." "$1 后面需要一个值。"
        exit 2
      fi
      option=$1
      value=$2
      shift 2
      ;;
    *)
      error "There is no option $1." "没有 $1 这个选项。"
      usage >&2
      exit 2
      ;;
  esac
  serve_options+=("$option" "$value")
  case "$option" in
    --host) host=$value ;;
    --port) port=$value ;;
    --data) data=$value ;;
  esac
done
if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || [ "$port" -gt 65535 ]; then
  error "--port $port: a port is a number from 1 to 65535." "--port $port：端口是 1 到 65535 之间的数字。"
  exit 2
fi
case "$host" in
  0.0.0.0) url=http://127.0.0.1:$port ;;
  ::) url="http://[::1]:$port" ;;
  *:*) url="http://[$host]:$port" ;;
  *) url=http://$host:$port ;;
esac
# Three lines: process, address, log. It lies with the data, since two studios must not work on the same folder.
pid_path=$data/app.pid

# --- The studio that runs ----------------------------------------------------------------------------------------

command_of() {
  if [ -r "/proc/$1/cmdline" ]; then
    tr '\0' ' ' <"/proc/$1/cmdline" || true
  else
    ps -ww -o args= -p "$1" || true
  fi
} 2>/dev/null # the process may end while it is being looked at

# Succeeds and sets `pid`, `running_url` and `running_log` when the process in the file is this studio. A number that
# was given to another process since does not count.
is_running() {
  [ -f "$pid_path" ] || return 1
  { read -r pid && read -r running_url && read -r running_log; } <"$pid_path" || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  case "$(command_of "$pid")" in
    *"$root/app.py serve"*) return 0 ;;
    *) return 1 ;;
  esac
}

remember() { printf '%s\n' "$1" "$url" "$log_path" >"$pid_path"; }

show_status() {
  if ! is_running; then
    info "The studio is not running." "没有在运行。"
    exit 1
  fi
  find_base_python
  python=$base_python
  if probe answers "$running_url"; then
    success "Running: $running_url (process $pid, log $running_log)" "正在运行：$running_url（进程 $pid，日志 $running_log）"
  else
    fail "Process $pid is there, but $running_url does not answer. Log: $running_log" \
      "进程 $pid 存在，但 $running_url 没有响应。日志：$running_log"
  fi
}

stop() {
  if ! is_running; then
    rm -f "$pid_path"
    info "The studio is not running; there is nothing to stop." "没有在运行，无需停止。"
    return
  fi
  kill -TERM "$pid" || fail "Process $pid could not be stopped (see above)." "无法停止进程 $pid（原因见上）。"
  local deadline_s=$((SECONDS + stop_timeout_s))
  while is_running; do
    if [ "$SECONDS" -ge "$deadline_s" ]; then
      fail "Process $pid still runs after $stop_timeout_s s. Log: $running_log. To end it by force: kill -9 $pid" \
        "等待 $stop_timeout_s 秒后进程 $pid 仍在运行。日志：$running_log。强制结束：kill -9 $pid"
    fi
    sleep 0.2
  done
  rm -f "$pid_path"
  success "Stopped (process $pid)." "已停止（进程 $pid）。"
}

# --- A new start -------------------------------------------------------------------------------------------------

check_port() {
  local holder
  if holder=$(probe port "$host" "$port"); then
    success "Port $port is free" "端口 $port 空闲"
    return
  fi
  case "$holder" in
    "! "*)
      fail "Cannot listen on $host, port $port: ${holder#! }. Choose another: ./start_app.sh --port 7861" \
        "无法监听 $host 的端口 $port：${holder#! }。请换一个端口：./start_app.sh --port 7861"
      ;;
    "")
      error "Port $port is taken by another program." "端口 $port 已被其他程序占用。"
      ;;
    *)
      error "Port $port is taken by process $holder" "端口 $port 已被占用，进程：$holder"
      ;;
  esac
  fail "Stop that program, or choose another port: ./start_app.sh --port $((port < 65535 ? port + 1 : 7860))" \
    "请停止该程序，或换一个端口：./start_app.sh --port $((port < 65535 ? port + 1 : 7860))"
}

make_folders() {
  mkdir -p "$root/logs" "$data"
  success "Folders: logs, $data" "目录创建完成：logs、$data"
  log_path=$root/logs/app_$(date +%Y%m%d_%H%M%S).log
  : >>"$log_path"
  success "Log file: $log_path" "日志文件: $log_path"
}

start_in_background() {
  nohup "$python" -u "$root/app.py" serve ${serve_options[@]+"${serve_options[@]}"} </dev/null >>"$log_path" 2>&1 &
  local started=$! result=0
  remember "$started"
  probe wait "$url" "$started" "$start_timeout_s" || result=$?
  if [ "$result" = 3 ]; then
    rm -f "$pid_path"
    error "The studio ended while it was starting. The last lines of its log:" "启动过程中退出，日志的最后几行："
    tail -n 20 "$log_path" >&2
    exit 1
  elif [ "$result" != 0 ]; then
    fail "The page does not answer after $start_timeout_s s; process $started still runs. Log: $log_path" \
      "等待 $start_timeout_s 秒后页面仍未响应；进程 $started 仍在运行。日志：$log_path"
  fi
  success "Running in the background (process $started). To stop it: ./start_app.sh --stop" \
    "已在后台运行（进程 $started）。停止：./start_app.sh --stop"
  say "📍 $url" "📍 访问地址: $url"
}

start() {
  say "🚀 Image-to-Video Studio" "🚀 Image-to-Video 应用启动器"
  if is_running; then
    fail "It runs already: $running_url (process $pid). To stop it: ./start_app.sh --stop" \
      "已经在运行：$running_url（进程 $pid）。停止：./start_app.sh --stop"
  fi
  choose_environment
  install_requirements requirements.txt requirements
  success "Environment: $environment ($("$python" -V 2>&1))" "环境已就绪: $environment（$("$python" -V 2>&1)）"
  check_port
  make_folders
  say "📡 Starting ..." "📡 应用启动中..."
  if [ "$action" = background ]; then
    start_in_background
    return
  fi
  # From here on everything stands in the log too. `tee -i` outlives Ctrl+C, so the last words are not lost; the
  # studio takes the place of this shell, so signals and the exit code are its own.
  exec > >(tee -ia "$log_path") 2>&1
  say "📍 $url   (Ctrl+C stops the studio)" "📍 访问地址: $url   （按 Ctrl+C 停止）"
  remember $$
  exec "$python" -u "$root/app.py" serve ${serve_options[@]+"${serve_options[@]}"}
}

case "$action" in
  status) show_status ;;
  stop) stop ;;
  *) start ;;
esac
