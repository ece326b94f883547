"""Certificates for tests of TLS, made by the `openssl` command: one authority, and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.requirements import need_program


@dataclass(frozen=True, slots=True)
class Certificate:
    """The paths of two PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files are in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._openssl = need_program("openssl")
        self._folder = folder
        self.own = self._paths(name)
        self._run(
            *(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", f"/CN={name}", "-keyout", str(self.own.key), "-out", str(self.own.certificate)),
        )

    def sign(self, name: str) -> Certificate:
        """A certificate for 127.0.0.1 and localhost, good for servers and for clients."""
        made = self._paths(name)
        request = self._folder / f"{name}.csr"
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(request)),
        )
        self._run(
            *("x509", "-req", "-in", str(request), "-days", "2", "-CAcreateserial"),
            *("-CA", str(self.own.certificate), "-CAkey", str(self.own.key)),
            *("-extfile", str(extensions), "-out", str(made.certificate)),
        )
        return made

    def _paths(self, name: str) -> Certificate:
        return Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)
