"""The name in a client's certificate, which the transport has verified."""

from functools import lru_cache

from headrace_server.security.packages import needs
from headrace_server.security.principal import Principal, unauthenticated


def check_certificate(certificate: bytes) -> Principal:
    """The principal of a certificate: `cert:` and its first URI (as in SPIFFE), or else its common name.

    Args:
        certificate: The certificate in DER. The transport has verified its signature and its dates.

    Raises:
        Refused: UNAUTHENTICATED if the certificate has neither.
    """
    name, expires = _read(certificate)
    if not name:
        raise unauthenticated("the client's certificate has no URI among its names, and no common name")
    return Principal(f"cert:{name}", expires=expires)


@lru_cache(maxsize=1024)
def _read(certificate: bytes) -> tuple[str, float]:
    with needs("auth"):
        from cryptography import x509
    read = x509.load_der_x509_certificate(certificate)
    common = read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    name = uris[0] if uris else str(common[0].value) if common else ""
    return name, read.not_valid_after_utc.timestamp()
