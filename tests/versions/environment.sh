# Sourced: a fresh environment with another torch and diffusers. The caller removes its `folder`.
#
#   environment TORCH DIFFUSERS [more for pip ...]      "newest": what pip offers
exactly() { [[ $1 == *.*.* ]] && echo "==$1" || echo "==$1.*"; }

environment() {
  local torch=torch diffusers=diffusers
  [[ $1 == newest ]] || torch+=$(exactly "$1")
  diffusers+=$(exactly "$2")
  export TORCHINDUCTOR_CACHE_DIR=$folder/inductor TRITON_CACHE_DIR=$folder/triton
  "${PYTHON:-python3}" -m venv "$folder/venv"
  # shellcheck disable=SC1091
  . "$folder/venv/bin/activate"
  pip install -q "$torch" "$diffusers" "${@:3}" -e '.[draw]' 'pytest>=8' 'pytest-xdist>=3.6' \
    'hypothesis>=6.100' 'peft>=0.17' 'setuptools>=77'
}
