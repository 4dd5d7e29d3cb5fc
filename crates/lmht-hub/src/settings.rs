//! Where the cache is, where the Hub is, and who asks: from the variables that Python's client reads.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What a [`Hub`](crate::Hub) works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// Who asks, if somebody does.
    pub token: Option<Token>,
    /// Whether nothing but the cache may be asked.
    pub offline: bool,
    /// Whether snapshots are links to blobs; without, they hold the files themselves. Tried out where links cannot be made.
    pub links: bool,
    /// More bytes than this are not fetched at once.
    pub max_bytes: u64,
    /// Certificates to trust instead of the built-in ones, in PEM.
    pub certificates: Option<PathBuf>,
}

/// A secret, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is none: it goes into a header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let expected = "a token of the Hub, which has letters, digits and _ alone; it has something else".into();
            return Err(Error::Setting { name: "HF_TOKEN", expected });
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// 1 TiB: ImageNet several times over.
const MAX_BYTES: u64 = 1 << 40;

impl Settings {
    /// From `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` (else the file that `hf auth login` writes),
    /// `HF_HUB_OFFLINE` and `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`Error::Setting`] if one of them cannot be followed; [`Error::File`] if the token cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// As [`Settings::from_env`], from variables by name.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    ///
    /// ```
    /// use lmht_hub::Settings;
    ///
    /// let settings = Settings::from_variables(&|name| (name == "HF_HOME").then(|| "/data/hf".to_owned()))?;
    /// assert_eq!(settings.cache, std::path::Path::new("/data/hf").join("hub"));
    /// assert_eq!(settings.endpoint, "https://huggingface.co");
    /// # Ok::<(), lmht_hub::Error>(())
    /// ```
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(|value| home_of(&value));
        let is_on = |name| get(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase()));
        let home = match path("HF_HOME").or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface"))) {
            Some(home) => home,
            None => match std::env::home_dir() {
                Some(home) => home.join(".cache").join("huggingface"),
                None => {
                    let expected = "a folder for the cache, as there is no home folder; set it".into();
                    return Err(Error::Setting { name: "HF_HOME", expected });
                }
            },
        };
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://")).unwrap_or_default();
        if host.is_empty() || host.contains(['@', '?', '#']) {
            let expected = format!("an address such as https://huggingface.co, found {endpoint:?}");
            return Err(Error::Setting { name: "HF_ENDPOINT", expected });
        }
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = match get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(token),
            None if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            None => read_token(&token_file)?,
        };
        let token = token.map(|token| Token::new(&token)).transpose()?;
        if token.is_some() && endpoint.starts_with("http://") && !is_loopback(&endpoint) {
            let expected = format!("https, as a token would be readable on its way to {endpoint}; or no token");
            return Err(Error::Setting { name: "HF_ENDPOINT", expected });
        }
        Ok(Self {
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub")),
            endpoint,
            token,
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            links: true,
            max_bytes: MAX_BYTES,
            certificates: path("SSL_CERT_FILE"),
        })
    }
}

fn read_token(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, format!("cannot read the token: {error}; mend or remove the file"))),
    }
}

/// `~` is the home folder.
fn home_of(path: &str) -> PathBuf {
    match (path.strip_prefix("~/").or((path == "~").then_some("")), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Whether an address is on this machine.
pub(crate) fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or("", |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(host, _)| host);
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}
