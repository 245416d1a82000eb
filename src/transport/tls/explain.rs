//! What went wrong in a TLS handshake, for whoever has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::Certificate;

/// What the calling side says.
pub(in super::super) fn connecting(error: &io::Error) -> String {
    match inner(error) {
        Some(Error::InvalidMessage(_)) => {
            "what answers there does not speak TLS, this side does: give that agent --tls-ca, --tls-cert and --tls-key, or this side none".to_owned()
        }
        Some(Error::InvalidCertificate(error)) => format!("the certificate of the agent there {}", refused(error)),
        Some(Error::AlertReceived(alert)) => format!("the agent there refused this side: {}", alerted(*alert)),
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the other side closed the connection in the TLS handshake; does it speak TLS?".to_owned()
        }
        None => error.to_string(),
    }
}

/// What the answering side says.
pub(in super::super) fn accepting(error: &io::Error) -> String {
    match inner(error) {
        Some(Error::NoCertificatesPresented) => {
            "the caller has no certificate; give it --tls-cert and --tls-key".to_owned()
        }
        Some(Error::InvalidCertificate(error)) => format!("the caller's certificate {}", refused(error)),
        Some(Error::AlertReceived(alert)) => format!("the caller refused this side: {}", alerted(*alert)),
        Some(Error::PeerIncompatible(why)) => {
            format!("the caller's TLS is too old or too different, only TLS 1.3 is spoken here ({why:?})")
        }
        Some(Error::NoApplicationProtocol) => {
            "the caller speaks TLS, but not for leasehold (its ALPN is another one)".to_owned()
        }
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the caller closed the connection in the TLS handshake".to_owned()
        }
        None => error.to_string(),
    }
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn refused(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired (or a clock is wrong): issue a new one, `leasehold certs issue`".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "does not hold yet: a clock is wrong".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by an authority that is trusted here: it is of another cluster, or the file of --tls-ca lacks its authority".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("is no member's: it lacks the name {}", Certificate::MEMBER_HOST)
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for another purpose: only a member's may answer".to_owned()
        }
        other => format!("is refused: {other}"),
    }
}

fn alerted(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "this side's certificate has expired (or a clock is wrong): issue a new one, `leasehold certs issue`".to_owned()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it trusts another certificate authority: this side's certificate is of another cluster, or its file of --tls-ca lacks this authority".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "it wants a certificate: give --tls-cert and --tls-key".to_owned()
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".to_owned(),
        AlertDescription::NoApplicationProtocol => "it speaks TLS, but is no leasehold agent".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => {
            format!("it does not accept this side's certificate ({alert:?})")
        }
        other => format!("TLS alert {other:?}"),
    }
}
