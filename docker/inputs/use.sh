# Sourced by the steps of the build: lets pip, uv and apt use what docker/inputs offers. Nothing of it is kept.
inputs=/mnt/docker/inputs
if [ -s "$inputs/ca.crt" ]; then
    export SSL_CERT_FILE="$inputs/ca.crt" PIP_CERT="$inputs/ca.crt" CURL_CA_BUNDLE="$inputs/ca.crt"
fi
if [ -s "$inputs/pip.conf" ]; then
    export PIP_CONFIG_FILE="$inputs/pip.conf"
fi
if [ -d "$inputs/wheels" ]; then
    export PIP_FIND_LINKS="$inputs/wheels"
fi
