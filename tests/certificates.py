"""Certificates for tests: a CA per test, and the certificates for localhost that it signs."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def private_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """Signs certificates for localhost; each has a serial number of its own."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=private_key)

    def certificate(self) -> x509.Certificate:
        return self._signed(name("authority"), self.key.public_key(), is_authority=True)

    def write(self, path: Path) -> Path:
        """Writes the CA's own certificate, for clients that trust it."""
        path.write_bytes(self.certificate().public_bytes(Encoding.PEM))
        return path

    def issue(self, certificate_file: Path, key_file: Path) -> int:
        """Writes a new pair for localhost over the old one; returns its serial number."""
        key = private_key()
        certificate = self._signed(name("localhost"), key.public_key(), is_authority=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace(certificate_file, certificate.public_bytes(Encoding.PEM))
        replace(key_file, pem)
        return certificate.serial_number

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name("authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            # These distinguish a renewed CA from the old one of the same name.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def replace(path: Path, content: bytes) -> None:
    """Replaces a file atomically, as the kubelet updates a mounted Secret."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)
