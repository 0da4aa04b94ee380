//! The web config file in the format of Prometheus exporters: the certificate to serve with, and
//! users and their passwords (`docs/web-configuration.md` of prometheus/exporter-toolkit). It is
//! reread when it changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use profiler_core::text::visible;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_saphyr::Spanned;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::users::{Checks, Users, check};
use crate::say;
use crate::session::settings::{SettingsError, contents};

/// The interval of checks whether the files have changed.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    tls_server_config: Option<TlsKeys>,
    basic_auth_users: Option<BTreeMap<String, Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsKeys {
    cert_file: Spanned<PathBuf>,
    key_file: Spanned<PathBuf>,
}

/// The present contents of the file. A separate thread checks it: a file that is temporarily
/// unreadable blocks neither clients nor signals.
pub(super) struct WebConfig {
    current: watch::Receiver<Arc<Loaded>>,
}

struct Loaded {
    tls: Option<TlsAcceptor>,
    users: Option<Arc<Users>>,
    /// The files, and their stamps when they were read.
    stamps: Vec<(PathBuf, Stamp)>,
}

/// When a file was changed, its size and its inode.
type Stamp = Option<(SystemTime, u64, u64)>;

impl WebConfig {
    /// Reads the file and the files that it names.
    ///
    /// # Errors
    /// What is wrong with which file, and in which line.
    pub(super) fn load(path: &Path) -> Result<Self, SettingsError> {
        let checks = Arc::new(Checks::new());
        let loaded = Loaded::read(path, &checks)?;
        let stamps = loaded.stamps.clone();
        let (holder, current) = watch::channel(Arc::new(loaded));
        let path = path.to_owned();
        let shown = path.clone();
        let started = thread::Builder::new()
            .name("web-config".into())
            .spawn(move || keep_current(&path, &checks, stamps, &holder));
        let thread = started.map_err(|error| {
            let why = format!("no thread to look at it: {error}");
            SettingsError::of(&shown, None, why)
        })?;
        // It ends when nothing uses it any more, or with the process: it may be waiting for a file
        // system then.
        drop(thread);
        Ok(Self { current })
    }

    /// What encrypts, if anything does.
    pub(super) fn tls(&self) -> Option<TlsAcceptor> {
        self.current.borrow().tls.clone()
    }

    /// Who may make requests; `None` means everybody.
    pub(super) fn users(&self) -> Option<Arc<Users>> {
        self.current.borrow().users.clone()
    }
}

/// Rereads everything if a file has changed. An unreadable file is reported, and the previous
/// contents stay valid.
fn keep_current(
    path: &Path,
    checks: &Arc<Checks>,
    mut stamps: Vec<(PathBuf, Stamp)>,
    holder: &watch::Sender<Arc<Loaded>>,
) {
    while !holder.is_closed() {
        thread::sleep(LOOK);
        let is_as_before = |(path, before): &(PathBuf, Stamp)| stamp(path) == *before;
        if stamps.iter().all(is_as_before) {
            continue;
        }
        match Loaded::read(path, checks) {
            Ok(loaded) => {
                say::line("the web config was read anew");
                stamps.clone_from(&loaded.stamps);
                holder.send_replace(Arc::new(loaded));
            }
            Err(error) => {
                say::line(format_args!(
                    "the web config has changed and cannot be used, and the one before holds: {error}"
                ));
                // Said once for each change.
                for (path, stamped) in &mut stamps {
                    *stamped = stamp(path);
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len(), about.ino()))
}

impl Loaded {
    fn read(path: &Path, checks: &Arc<Checks>) -> Result<Self, SettingsError> {
        let mut reading = Reading {
            path,
            checks,
            stamps: vec![(path.to_owned(), stamp(path))],
        };
        let text = contents(path).map_err(|why| reading.failed(None, why))?;
        let text = String::from_utf8(text).map_err(|why| reading.failed(None, why))?;
        let options = serde_saphyr::options! { with_snippet: false };
        let keys = serde_saphyr::from_str_with_options(&text, options);
        let keys: Option<Keys> = keys.map_err(|why| reading.failed(None, why))?;
        let (tls, users) = keys.map_or((None, None), |keys| {
            (keys.tls_server_config, keys.basic_auth_users)
        });
        let tls = tls.map(|keys| reading.tls(&keys)).transpose()?;
        let users = users.map(|users| reading.users(users)).transpose()?;
        Ok(Self {
            tls,
            users: users.map(Arc::new),
            stamps: reading.stamps,
        })
    }
}

/// The file while it is being read.
struct Reading<'a> {
    path: &'a Path,
    checks: &'a Arc<Checks>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Reading<'_> {
    fn failed(&self, line: Option<u64>, why: impl ToString) -> SettingsError {
        SettingsError::of(self.path, line, why)
    }

    /// That something is wrong with the file that a key names.
    fn file_failed(&self, key: &str, file: &Spanned<PathBuf>, why: impl ToString) -> SettingsError {
        let name = self.place(file);
        let why = why.to_string();
        let why = format!(
            "tls_server_config.{key}: {}: {why}",
            visible(name.display())
        );
        self.failed(Some(file.referenced.line()), why)
    }

    /// The path of a file: as in the exporters, relative to the directory of the config.
    fn place(&self, file: &Spanned<PathBuf>) -> PathBuf {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        folder.join(&file.value)
    }

    fn file(&mut self, key: &str, file: &Spanned<PathBuf>) -> Result<Vec<u8>, SettingsError> {
        let place = self.place(file);
        self.stamps.push((place.clone(), stamp(&place)));
        contents(&place).map_err(|why| self.file_failed(key, file, why))
    }

    fn tls(&mut self, keys: &TlsKeys) -> Result<TlsAcceptor, SettingsError> {
        let (cert, key) = (&keys.cert_file, &keys.key_file);
        let bytes = self.file("cert_file", cert)?;
        let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|why| self.file_failed("cert_file", cert, why))?;
        if chain.is_empty() {
            let why = "there is no certificate in it (PEM)";
            return Err(self.file_failed("cert_file", cert, why));
        }
        let bytes = self.file("key_file", key)?;
        let private = PrivateKeyDer::from_pem_slice(&bytes);
        let private = private.map_err(|why| self.file_failed("key_file", key, why))?;
        let config = server(chain, private);
        let config = config.map_err(|why| self.file_failed("key_file", key, why))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn users(&self, users: BTreeMap<String, Spanned<String>>) -> Result<Users, SettingsError> {
        let mut hashes = BTreeMap::new();
        for (user, hash) in users {
            let wrong = |why| {
                let why = format!("basic_auth_users.{user}: {why}");
                self.failed(Some(hash.referenced.line()), why)
            };
            check(&hash.value).map_err(wrong)?;
            hashes.insert(user, hash.value);
        }
        Ok(Users::new(hashes, Arc::clone(self.checks)))
    }
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error for a config with these lines.
    fn wrong(lines: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web.yml");
        fs::write(&path, lines).expect("written");
        let error = WebConfig::load(&path).err().expect("it is wrong");
        let name = path.display().to_string();
        let said = error.to_string();
        assert!(said.starts_with(&name), "{said}");
        said.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_key() {
        let not_bcrypt = wrong("# users\nbasic_auth_users:\n  ann: secret\n");
        assert!(
            not_bcrypt.starts_with("web.yml line 3: basic_auth_users.ann: this is not a bcrypt"),
            "{not_bcrypt}"
        );
        let slow = "$2y$15$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        let slow = wrong(&format!("basic_auth_users:\n  bob: {slow}\n"));
        assert!(
            slow.starts_with("web.yml line 2: basic_auth_users.bob: the cost 15"),
            "{slow}"
        );
        let missing = wrong("tls_server_config:\n  cert_file: none.pem\n  key_file: key.pem\n");
        assert_eq!(
            missing,
            "web.yml line 2: tls_server_config.cert_file: none.pem: No such file or directory (os error 2)"
        );
        for (lines, words) in [
            ("tls_server_config:\n  cert_file: a\n", "key_file"),
            ("tls_server_config:\n  certfile: a\n", "certfile"),
            ("users: {}\n", "users"),
            ("basic_auth_users: [\n", "line"),
        ] {
            let said = wrong(lines);
            assert!(said.contains(words) && said.contains("line"), "{said}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_neither_opened_nor_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web.yml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        for path in [&path, Path::new("/dev/zero")] {
            let said = WebConfig::load(path).err().expect("refused").to_string();
            assert!(said.ends_with("it is not a regular file"), "{said}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web.yml");
        fs::write(&path, "").expect("written");
        let open = fs::Permissions::from_mode(0o666);
        fs::set_permissions(&path, open).expect("ours");
        let said = WebConfig::load(&path).err().expect("refused").to_string();
        assert!(said.contains("can be written by other users"), "{said}");
    }
}
