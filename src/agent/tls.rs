//! TLS settings, made once at the start so that a bad file is one clear sentence, and TLS errors in people's words.

use crate::sys::{fd, time};
use rumqttc::tokio_rustls::rustls;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Longest PEM file that is read: a bundle of all public authorities has about 220 KiB.
const MAX_PEM: usize = 512 * 1024;

/// When this program was built, in seconds since 1970. No certificate in use is from before, whatever the clock of a router without a battery says.
const BUILT: u64 = match option_env!("WHERRY_BUILD_EPOCH") {
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("WHERRY_BUILD_EPOCH is not a number of seconds"),
    },
    // 2026-01-01
    None => 1_767_225_600,
};

/// The files of one broker, as keeper opened them.
#[derive(Debug, Default)]
pub struct Files {
    /// Authorities that may sign the broker's certificate.
    pub ca: Option<OwnedFd>,
    /// Our certificate (with its chain) and its key.
    pub client: Option<(OwnedFd, OwnedFd)>,
}

/// Reads the files and makes the settings.
///
/// # Errors
/// A sentence.
pub fn config(files: Files) -> Result<Arc<ClientConfig>, String> {
    let ca =
        files.ca.ok_or("TLS: no CA file is set for this broker, and none is built in (set `ca` to the authority's certificate in PEM)")?;
    let roots = roots(&read(ca, "CA file")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| format!("TLS: {e}"))?.with_root_certificates(roots);
    let mut config = match files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, key) = identity(&read(certificate, "client certificate")?, &read(key, "client key")?)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("TLS: client certificate and key do not work together: {e}"))?
        }
    };
    // One broker at a time: the default remembers 256 servers.
    config.resumption = Resumption::in_memory_sessions(1);
    Ok(Arc::new(config))
}

fn read(file: OwnedFd, what: &str) -> Result<Vec<u8>, String> {
    fd::read_to_end(&file, MAX_PEM).map_err(|e| format!("TLS: cannot read the {what}: {e}"))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(list) if list.is_empty() => Err(format!("TLS: the {what} holds no certificate in PEM")),
        Ok(list) => Ok(list),
        Err(e) => Err(format!("TLS: the {what} is not valid PEM: {e}")),
    }
}

/// A system's bundle of some hundred authorities may hold one that this library does not take: the others count.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let mut fault = None;
    for certificate in certificates(pem, "CA file")? {
        fault = store.add(certificate).err().or(fault);
    }
    match fault {
        Some(e) if store.is_empty() => Err(format!("TLS: the CA file holds no certificate that can be used: {e}")),
        _ => Ok(store),
    }
}

/// The key may be PKCS #8, PKCS #1 or SEC 1.
fn identity(certificate: &[u8], key: &[u8]) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(certificate, "client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| match e {
        rustls::pki_types::pem::Error::NoItemsFound => {
            "TLS: the client key file holds no unencrypted private key in PEM (PKCS #8, PKCS #1 or SEC 1)".into()
        }
        e => format!("TLS: the client key is not valid PEM: {e}"),
    })?;
    Ok((chain, key))
}

/// The system's clock, but never before the build.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_millis(time::unix_ms());
        Some(UnixTime::since_unix_epoch(now.max(Duration::from_secs(BUILT))))
    }
}

/// The TLS error inside an I/O error, in words; `None` when there is none inside.
pub fn words(error: &io::Error, host: &str) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(format!("TLS: {}", explain(inner, host)))
}

fn explain(error: &rustls::Error, host: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(e) => certificate(e, host),
        rustls::Error::AlertReceived(alert) => refused(*alert),
        rustls::Error::InvalidMessage(_) => "the broker does not speak TLS on this port".into(),
        e => e.to_string(),
    }
}

fn certificate(error: &CertificateError, host: &str) -> String {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "the broker's certificate has expired (or the clock of this device is ahead)".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet (is the clock of this device right?)".into()
        }
        // A bad signature is what another authority of the same name gives.
        E::UnknownIssuer | E::BadSignature => "the broker's certificate is not signed by the authority in the CA file".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => format!("the broker's certificate is not for the name {host}"),
        E::Revoked => "the broker's certificate was revoked".into(),
        e => format!("the broker's certificate is not acceptable: {e}"),
    }
}

/// With TLS 1.3 the broker judges our certificate after our side of the handshake is done: its refusal arrives in place of CONNACK.
fn refused(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => "the broker asks for a client certificate, and none is set".into(),
        A::BadCertificate | A::UnknownCA | A::CertificateUnknown | A::UnsupportedCertificate | A::AccessDenied | A::DecryptError => {
            "the broker refused our client certificate".into()
        }
        A::CertificateExpired => "the broker says that our client certificate has expired".into(),
        A::CertificateRevoked => "the broker says that our client certificate was revoked".into(),
        A::HandshakeFailure => "the broker refused the handshake (does it ask for a client certificate, or for other ciphers?)".into(),
        A::ProtocolVersion => "the broker speaks neither TLS 1.3 nor 1.2".into(),
        other => format!("the broker refused: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_never_before_the_build() {
        assert!(Clock.current_time().unwrap().as_secs() >= BUILT);
        const { assert!(BUILT >= 1_767_225_600) };
    }

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let table: [(&[u8], &str); 4] = [
            (b"", "holds no certificate"),
            (b"not pem at all\n", "holds no certificate"),
            (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "not valid PEM"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "not valid PEM"),
        ];
        for (pem, sentence) in table {
            let error = certificates(pem, "CA file").unwrap_err();
            assert!(error.contains(sentence) && error.contains("CA file"), "{error}");
        }
        let error = roots(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err();
        assert!(error.contains("no certificate that can be used"), "{error}");
    }

    #[test]
    fn tls_without_a_ca_file_is_refused() {
        assert!(config(Files::default()).unwrap_err().contains("no CA file is set"));
    }
}
