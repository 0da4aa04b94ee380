//! The settings file for an endpoint that requires more: a password, headers, and the certificates
//! that identify it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use profiler_core::text::visible;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::session::settings::{SettingsError, contents, secret_contents};

/// Headers that describe the request or its encoding.
const OURS: [&str; 8] = [
    "connect-protocol-version",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    basic_auth: Option<Spanned<BasicAuth>>,
    #[serde(default)]
    headers: BTreeMap<String, Spanned<String>>,
    tls_config: Option<TlsKeys>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicAuth {
    username: String,
    password: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsKeys {
    ca_file: Spanned<PathBuf>,
}

/// The settings in the file.
#[derive(Default)]
pub(super) struct PushSettings {
    headers: HeaderMap,
    /// The certificates of those who may sign the endpoint's; `None` means those that this host
    /// trusts.
    roots: Option<RootCertStore>,
    /// The TLS configuration, created when it is first needed.
    tls: std::sync::OnceLock<Arc<ClientConfig>>,
}

impl PushSettings {
    /// Reads the file and the files that it names.
    ///
    /// # Errors
    /// What is wrong with which file, and in which line.
    pub(super) fn load(path: &Path) -> Result<Self, SettingsError> {
        let failed = |why: String| SettingsError::of(path, None, why);
        let text = secret_contents(path).map_err(|why| failed(why.to_string()))?;
        let text = String::from_utf8(text).map_err(|_| failed("it is not UTF-8".into()))?;
        let options = serde_saphyr::options! { with_snippet: false };
        let keys = serde_saphyr::from_str_with_options(&text, options);
        let keys: Option<Keys> = keys.map_err(|why| failed(why.to_string()))?;
        let keys = keys.unwrap_or_default();
        let mut headers = headers(path, &keys.headers)?;
        if let Some(user) = &keys.basic_auth {
            let value = basic(path, user)?;
            if headers.insert(AUTHORIZATION, value).is_some() {
                let why = "basic_auth and a header Authorization: give one of them";
                return Err(failed(why.into()));
            }
        }
        let roots = keys.tls_config.map(|keys| roots(path, &keys.ca_file));
        Ok(Self {
            headers,
            roots: roots.transpose()?,
            tls: std::sync::OnceLock::new(),
        })
    }

    /// Additional headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether it contains secrets.
    pub(super) fn has_secrets(&self) -> bool {
        !self.headers.is_empty()
    }

    /// The TLS configuration.
    ///
    /// # Errors
    /// When it is not known which certificates to trust.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, SettingsError> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            None => of_this_host()?,
        };
        let config = client(roots).map_err(|why| SettingsError::of(Path::new("TLS"), None, why))?;
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

fn client(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates that this host trusts. Some of a distribution's may be unacceptable to rustls.
fn of_this_host() -> Result<RootCertStore, SettingsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(SettingsError::of(
            Path::new("/etc/ssl/certs"),
            None,
            "this host trusts no certificate, as without Debian's ca-certificates: name one with tls_config.ca_file",
        )),
    }
}

fn headers(
    path: &Path,
    keys: &BTreeMap<String, Spanned<String>>,
) -> Result<HeaderMap, SettingsError> {
    let mut headers = HeaderMap::new();
    for (name, value) in keys {
        // Never the value: it may be a secret.
        let shown = visible(name);
        let failed = |why: &str| {
            let why = format!("headers.{shown}: {why}");
            SettingsError::of(path, Some(value.referenced.line()), why)
        };
        let name = HeaderName::try_from(name.as_str());
        let name = name.map_err(|_| failed("this is no name of a header"))?;
        if OURS.contains(&name.as_str()) {
            return Err(failed("fragscope sets this header itself"));
        }
        let parsed = HeaderValue::from_str(&value.value);
        let mut parsed = parsed.map_err(|_| failed("this is no value of a header"))?;
        parsed.set_sensitive(true);
        if headers.insert(name, parsed).is_some() {
            return Err(failed("this header is there twice"));
        }
    }
    Ok(headers)
}

/// `Authorization: Basic` (RFC 7617).
fn basic(path: &Path, user: &Spanned<BasicAuth>) -> Result<HeaderValue, SettingsError> {
    let failed = |why: String| {
        let line = user.referenced.line();
        SettingsError::of(path, Some(line), format!("basic_auth: {why}"))
    };
    let BasicAuth {
        username,
        password,
        password_file,
    } = &user.value;
    if username.contains(':') {
        return Err(failed("username: it cannot have a colon".into()));
    }
    let password = match (password, password_file) {
        (Some(password), None) => password.clone(),
        (None, Some(file)) => {
            let place = beside(path, file);
            let read = secret_contents(&place).map_err(|why| why.to_string());
            let read = read.and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
            });
            let read = read.map_err(|why| {
                failed(format!(
                    "password_file: {}: {why}",
                    visible(place.display())
                ))
            })?;
            read.trim_end_matches(['\r', '\n']).to_owned()
        }
        _ => return Err(failed("give one of password and password_file".into())),
    };
    let both = STANDARD.encode(format!("{username}:{password}"));
    let value = HeaderValue::from_str(&format!("Basic {both}"));
    let mut value = value.map_err(|why| failed(why.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn roots(path: &Path, file: &Spanned<PathBuf>) -> Result<RootCertStore, SettingsError> {
    let place = beside(path, &file.value);
    let failed = |why: String| {
        let why = format!("tls_config.ca_file: {}: {why}", visible(place.display()));
        SettingsError::of(path, Some(file.referenced.line()), why)
    };
    let bytes = contents(&place).map_err(|why| failed(why.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|why| failed(why.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|why| failed(why.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(failed("there is no certificate in it (PEM)".into())),
        false => Ok(roots),
    }
}

/// The path of a file named in the settings: relative to their directory, as in a web config.
fn beside(path: &Path, file: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn load(lines: &str) -> Result<PushSettings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("push.yml");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
        };
        write("push.yml", lines);
        write("token", "s3cret\n");
        write("empty.pem", "");
        let folder = format!("{}/", folder.path().display());
        PushSettings::load(&path).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn a_password_and_headers_are_sent_and_marked_as_secrets() {
        let lines = "basic_auth: {username: '1234', password_file: token}\nheaders:\n  X-Scope-OrgID: shop\n";
        let settings = load(lines).expect("right");
        let authorization = &settings.headers()[AUTHORIZATION];
        assert_eq!(authorization, "Basic MTIzNDpzM2NyZXQ=");
        assert!(authorization.is_sensitive());
        assert_eq!(settings.headers()["x-scope-orgid"], "shop");
        assert!(load("").expect("empty").headers().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key_and_never_with_its_value() {
        for (lines, words) in [
            (
                "headers:\n  Host: s3cret\n",
                "line 2: headers.Host: fragscope sets",
            ),
            (
                "headers:\n  'a b': s3cret\n",
                "line 2: headers.a b: this is no name",
            ),
            (
                "headers:\n  a: \"s3cret\\n\"\n",
                "line 2: headers.a: this is no value",
            ),
            ("headers: {A: s3cret, a: s3cret}\n", "there twice"),
            (
                "basic_auth: {username: a}\n",
                "line 1: basic_auth: give one of",
            ),
            ("basic_auth: {username: 'a:b', password: s3cret}\n", "colon"),
            (
                "basic_auth: {username: a, password: s3cret}\nheaders: {Authorization: s3cret}\n",
                "give one of them",
            ),
            (
                "basic_auth: {username: a, password_file: none}\n",
                "password_file: none: No such",
            ),
            ("tls_config: {ca_file: empty.pem}\n", "no certificate in it"),
            (
                "tls_config: {insecure_skip_verify: true}\n",
                "insecure_skip_verify",
            ),
            ("password: s3cret\n", "password"),
        ] {
            let said = load(lines).err().expect(lines);
            assert!(
                said.starts_with("push.yml") && said.contains(words),
                "{said}"
            );
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("push.yml");
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        let said = PushSettings::load(&path)
            .err()
            .expect("refused")
            .to_string();
        assert!(said.contains("chmod 600"), "{said}");
    }
}
