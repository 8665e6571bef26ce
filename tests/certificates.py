"""Certificates for tests: a CA per test, and the certificates that it signs."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit.http.tls import CertificateFiles

DAY = dt.timedelta(days=1)
LOCALHOST = (x509.DNSName("localhost"),)
CLIENTS_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def spiffe(path: str) -> tuple[x509.GeneralName, ...]:
    """The names of a SPIFFE certificate."""
    return (x509.UniformResourceIdentifier(f"spiffe://texera.example/{path}"),)


def files_in(folder: Path, stem: str = "tls") -> CertificateFiles:
    return CertificateFiles(folder / f"{stem}.crt", folder / f"{stem}.key")


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def private_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """Signs certificates, of localhost by default; each has a serial number of its own."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=private_key)

    def certificate(
        self, began_ago: dt.timedelta = DAY, ends_in: dt.timedelta = DAY
    ) -> x509.Certificate:
        usage = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(name("authority"), self.key.public_key(), began_ago, ends_in)
        return builder.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())

    def write(
        self, path: Path, *, began_ago: dt.timedelta = DAY, ends_in: dt.timedelta = DAY
    ) -> Path:
        """Writes the CA's own certificate, for peers that trust it."""
        replace(path, self.certificate(began_ago, ends_in).public_bytes(Encoding.PEM))
        return path

    def issue(
        self,
        files: CertificateFiles,
        *,
        names: Sequence[x509.GeneralName] = LOCALHOST,
        began_ago: dt.timedelta = DAY,
        ends_in: dt.timedelta = DAY,
        usage: x509.ExtendedKeyUsage | None = None,
    ) -> int:
        """Writes a new pair over the old one; returns its serial number."""
        key = private_key()
        builder = self._builder(name("leaf"), key.public_key(), began_ago, ends_in)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace(files.certificate, certificate.public_bytes(Encoding.PEM))
        replace(files.key, pem)
        return certificate.serial_number

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        began_ago: dt.timedelta,
        ends_in: dt.timedelta,
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        own_key = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name("authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - began_ago)
            .not_valid_after(now + ends_in)
            # These distinguish a renewed CA from the old one of the same name.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(own_key), critical=False
            )
        )


def replace(path: Path, content: bytes) -> None:
    """Replaces a file atomically, as the kubelet updates a mounted Secret."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_bytes(content)
    new.rename(path)
