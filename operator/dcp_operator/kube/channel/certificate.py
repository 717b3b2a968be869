"""This replica's key and certificate. The key is made at the start and never leaves the process: no Secret holds it."""

import ipaddress
import os
import re
import ssl
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID: Final = timedelta(days=397)
"""The kubelet starts a process anew whose certificate has little of that left: its liveness probe fails."""
RENEWED: Final = timedelta(days=7)
_CLOCKS: Final = timedelta(hours=1)
"""By which the clock of a node with training may be behind."""
_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Certificate:
    """A certificate that its own key has signed, and the TLS server that has it."""

    pem: str
    context: ssl.SSLContext
    expires: datetime

    def expiring(self, now: datetime) -> str:
        """Return what is wrong with it; nothing while it holds for long enough."""
        return "the channel's certificate is about to expire" if now > self.expires - RENEWED else ""

    @classmethod
    def make(cls, names: Iterable[str], now: datetime | None = None) -> Self:
        """Make a key and a certificate for the names under which training reaches any replica."""
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        expires = now + VALID
        # A name of its own: among certificates of one name OpenSSL takes the wrong one for the issuer.
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dcp-operator {uuid.uuid4()}")])
        signed = (
            x509.CertificateBuilder()
            .subject_name(own)
            .issuer_name(own)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS)
            .not_valid_after(expires)
            .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = signed.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(pem.decode(), _context(private + pem), expires)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _context(chain: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A ticket for each of a thousand connections is memory that nobody uses: a connection lasts for days.
    context.num_tickets = 0
    # OpenSSL reads files alone. This one lies in memory, and nothing else can open it.
    descriptor = os.memfd_create("dcp-operator-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def valid(bundle: str, now: datetime) -> list[str]:
    """Return the certificates of a bundle that hold at that time, the newest one first; what is none is left out."""
    found: dict[bytes, x509.Certificate] = {}
    for block in _BLOCK.findall(bundle):
        with suppress(ValueError):
            each = x509.load_pem_x509_certificate(block.encode())
            found[each.fingerprint(hashes.SHA256())] = each
    good = [each for each in found.values() if each.not_valid_after_utc > now]
    good.sort(key=lambda each: each.not_valid_before_utc, reverse=True)
    return [each.public_bytes(serialization.Encoding.PEM).decode() for each in good]
