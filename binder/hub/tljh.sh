#!/usr/bin/env bash
# The Littlest JupyterHub on one machine of your own (Ubuntu, root): docs/teaching_at_scale.md.
#   sudo bash tljh.sh ADMIN
# Memory for ten learners: 1 GB each, and 1 GB for the system and the hub (measured; a part is shared): 12 to 16 GB.
set -euo pipefail
admin="$1"
source=https://github.com/efisher-teach/efisher_teach

apt-get update && apt-get install --yes python3 python3-dev git curl
curl -L https://tljh.jupyter.org/bootstrap.py | python3 - --admin "$admin" \
  --user-requirements-txt-url https://raw.githubusercontent.com/efisher-teach/efisher_teach/main/requirements.txt
# The package itself; TLJH's own environment has nbgitpuller already. It is on Python 3.12, which the pins allow.
/opt/tljh/user/bin/python -m pip install --no-cache-dir --no-deps "efisher_teach @ git+$source@main"

tljh-config() { /opt/tljh/hub/bin/tljh-config "$@"; }
tljh-config set limits.memory 2G # measured: 370 to 660 MiB a kernel after a notebook, 115 MiB a server; two kernels
tljh-config set limits.cpu 2 # a notebook that is run as a whole takes 5 to 40 s of CPU (measured)
tljh-config set user_environment.default_app jupyterlab
tljh-config set services.cull.timeout 3600

# What binder/start sets on Binder.
mkdir -p /opt/tljh/config/jupyterhub_config.d
cat > /opt/tljh/config/jupyterhub_config.d/efisher_teach.py <<'PYTHON'
c.Spawner.environment = {
    "JAX_PLATFORMS": "cpu",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
PYTHON
tljh-config reload
