"""Certificates for the tests: an authority, and contexts of callers that have one of its certificates or none."""

import datetime
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from vna.dimse.server_tls import TlsFiles


@dataclass
class Authority:
    """One that signs for both sides, writing into `folder`."""

    folder: Path
    made: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca_file(self) -> Path:
        path = self.folder / "ca.pem"
        self.made.cert_pem.write_to_path(path)
        return path

    def pair(self, name: str, common_name: str, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key files for a host name."""
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        cert = self.made.issue_cert("localhost", "127.0.0.1", common_name=common_name, not_after=ends)
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
        cert.private_key_pem.write_to_path(files[1])
        return files

    def server_files(self, days: int = 30) -> TlsFiles:
        return TlsFiles(*self.pair("server", "backupdr.example", days), self.ca_file)

    def caller(self, common_name: str | None = "ct1.example", **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """A client context that trusts us, with a certificate or without."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = False
        if common_name is not None:
            context.load_cert_chain(*self.pair(common_name, common_name))
        for side, version in versions.items():
            setattr(context, f"{side}_version", version)
        return context
