//! Chains of certificates that are too long are refused before anybody looks for a path through them.
//!
//! Whoever connects may send some hundred certificates, which he has made himself and nobody has signed, and webpki looks for
//! a way from the first to an authority through all of them: seconds of a core for one handshake, by a stranger. So the number
//! is compared first. Everything else is rustls's own verifiers' affair: these here only refuse more.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::limits::TLS_CHAIN_MAX;

/// A verifier that is asked about short chains alone.
#[derive(Debug)]
pub(super) struct Short<V: ?Sized>(pub(super) Arc<V>);

fn bounded(between: &[CertificateDer<'_>]) -> Result<(), Error> {
    if between.len() > TLS_CHAIN_MAX {
        return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
    }
    Ok(())
}

/// What both verifiers ask of the one within.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            own: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls12_signature(message, own, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            own: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls13_signature(message, own, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    };
}

impl ClientCertVerifier for Short<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        bounded(between)?;
        self.0.verify_client_cert(own, between, now)
    }

    signatures!();
}

impl ServerCertVerifier for Short<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        bounded(between)?;
        self.0.verify_server_cert(own, between, name, ocsp, now)
    }

    signatures!();
}
