//! One question to the Hub: redirects, retries and limits, and a token that only the Hub sees.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::settings::{Settings, is_loopback};

/// A question is asked this often.
const TRIES: usize = 5;
/// The longest that a server may ask to wait.
const MAX_WAIT: Duration = Duration::from_secs(120);
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer in JSON.
const MAX_JSON: u64 = 1 << 24;
/// Nothing may arrive for this long.
const SILENCE: Duration = Duration::from_secs(30);

/// Asks the Hub.
pub(crate) struct Http {
    agent: Agent,
    settings: Settings,
    times: Times,
}

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Before the second try; twice as long before each other one.
    pub(crate) pause: Duration,
    pub(crate) silence: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { pause: Duration::from_secs(1), silence: SILENCE }
    }
}

/// An answer of status 200, 206 or 416.
pub(crate) struct Answer {
    pub(crate) status: u16,
    response: Response<Body>,
}

/// Why a try failed.
pub(crate) enum Trouble {
    /// It may work the next time.
    Passing { error: Error, after: Option<Duration>, progressed: bool },
    /// It will not.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Trouble {
    pub(crate) fn passing(error: Error) -> Self {
        Self::Passing { error, after: None, progressed: false }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.response, name)
    }

    pub(crate) fn body(self) -> impl Read {
        self.response.into_body().into_reader()
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

impl Http {
    pub(crate) fn new(settings: &Settings, times: Times) -> Result<Self> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("lmht-hub/", env!("CARGO_PKG_VERSION")))
            // A file is what its digest says only as it is.
            .accept_encoding("identity")
            .timeout_connect(Some(times.silence))
            .timeout_recv_response(Some(times.silence))
            .timeout_per_read(Some(times.silence));
        if is_loopback(&settings.endpoint) {
            config = config.proxy(None);
        }
        if let Some(path) = &settings.certificates {
            let wrong = |error: String| Error::file(path, format!("{error}; correct SSL_CERT_FILE or unset it"));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let mut certificates = Vec::new();
            for item in parse_pem(&pem) {
                if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
                    certificates.push(certificate);
                }
            }
            let roots = RootCerts::Specific(Arc::new(certificates));
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().into(), settings: settings.clone(), times })
    }

    /// Tries until it works or cannot; what made progress may be tried again as if it were the first time.
    pub(crate) fn retrying<T>(&self, mut attempt: impl FnMut() -> std::result::Result<T, Trouble>) -> Result<T> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing { error, after, progressed }) => {
                    failed = if progressed { 1 } else { failed + 1 };
                    let wait = after.unwrap_or(self.times.pause * (1 << (failed - 1).min(6)));
                    if failed >= TRIES || wait > MAX_WAIT {
                        return Err(error);
                    }
                    std::thread::sleep(wait);
                }
            }
        }
    }

    /// An answer in JSON, and the address of the next page if there is one.
    pub(crate) fn json<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Option<String>)> {
        self.retrying(|| {
            let answer = self.get(url, None)?;
            let next = answer.header("link").and_then(next_page).map(str::to_owned);
            let mut bytes = Vec::new();
            let read = answer.body().take(MAX_JSON + 1).read_to_end(&mut bytes);
            read.map_err(|error| {
                Trouble::passing(Error::Network {
                    url: url.to_owned(),
                    reason: format!("the answer broke off: {error}"),
                })
            })?;
            if bytes.len() as u64 > MAX_JSON {
                return Err(
                    Error::answer(url, format!("expected at most {MAX_JSON} bytes of JSON, and more came")).into()
                );
            }
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| Error::answer(url, format!("expected an answer of the Hub's API, found {error}")))?;
            if let Some(next) = &next
                && origin(next) != origin(&self.settings.endpoint)
            {
                let reason = format!("expected the next page on the same host, found {next:?}");
                return Err(Error::answer(url, reason).into());
            }
            Ok((value, next))
        })
    }

    /// Asks once, from byte `from` on, and follows redirects.
    pub(crate) fn get(&self, url: &str, from: Option<u64>) -> std::result::Result<Answer, Trouble> {
        let mut at = url.to_owned();
        let hub = origin(&self.settings.endpoint);
        // Not again after another host has seen the question.
        let mut is_hub = true;
        for _ in 0..=MAX_REDIRECTS {
            is_hub &= origin(&at) == hub;
            let mut request = self.agent.get(&at);
            if let Some(token) = self.settings.token.as_ref().filter(|_| is_hub) {
                request = request.header("authorization", token.header());
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| unreachable(url, &error))?;
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(Answer { status, response }),
                301 | 302 | 303 | 307 | 308 => {
                    let location = header(&response, "location").unwrap_or_default();
                    let next = join(&at, location).ok_or_else(|| {
                        Error::answer(url, format!("expected a redirect to a web address, found {location:?}"))
                    })?;
                    if at.starts_with("https://") && !next.starts_with("https://") {
                        let reason = format!("expected a redirect that stays with https, found {next:?}");
                        return Err(Error::answer(url, reason).into());
                    }
                    at = next;
                }
                _ => return Err(self.refusal(url, status, &response)),
            }
        }
        Err(Error::answer(url, format!("expected at most {MAX_REDIRECTS} redirects, and there are more")).into())
    }

    fn refusal(&self, url: &str, status: u16, response: &Response<Body>) -> Trouble {
        let code = header(response, "x-error-code").unwrap_or_default();
        let login = match self.settings.token {
            Some(_) => "check that your token (HF_TOKEN, or the file of `hf auth login`) may read it",
            None => "no token was sent: set HF_TOKEN, or log in with `hf auth login`",
        };
        let reason = match (status, code) {
            (401 | 403, "GatedRepo") => {
                format!("the repository is gated; open its page in a browser, accept its conditions, and then {login}")
            }
            (401, _) => format!("there is no such repository, or it is private or gated; check the name, and {login}"),
            (403, _) => format!("access is forbidden; {login}"),
            (404, "RevisionNotFound") => "the repository has no such revision; check what follows the @".to_owned(),
            (404, "EntryNotFound") => "the repository has no such file".to_owned(),
            (404, _) => format!("there is nothing; check the name, and if it is private, {login}"),
            (429, _) => {
                "too many questions; wait some minutes and try again (with a token more are allowed)".to_owned()
            }
            (500.., _) => "the Hub has a fault of its own; try again later (https://status.huggingface.co)".to_owned(),
            _ => "expected 200 or a redirect; is HF_ENDPOINT the address of a Hub?".to_owned(),
        };
        let said = header(response, "x-error-message").unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let reason = if said.is_empty() { reason } else { format!("{reason} (it says: {said})") };
        let error = Error::Status { url: url.to_owned(), status, reason };
        let after = header(response, "retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        match status {
            408 | 429 | 500 | 502..=504 => Trouble::Passing { error, after, progressed: false },
            _ => Trouble::Final(error),
        }
    }
}

fn unreachable(url: &str, error: &ureq::Error) -> Trouble {
    let error_of = |reason: String| Error::Network { url: url.to_owned(), reason };
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Trouble::Final(Error::answer(url, format!("expected a web address, found one that is none ({error})")))
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Trouble::Final(error_of(format!(
            "no safe connection: {error}; behind a proxy with certificates of its own, name them in SSL_CERT_FILE"
        ))),
        _ => Trouble::passing(error_of(format!("no answer: {error}"))),
    }
}

/// Scheme, host and port, in small letters.
fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{host}").to_ascii_lowercase()
}

/// Where `location` leads from `base`.
fn join(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or_default();
    let lower = location.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Some(location.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    let path_from = rest.find('/').unwrap_or(rest.len());
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    let has_scheme = location.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
    if location.is_empty() || has_scheme {
        return None;
    }
    let host = &rest[..path_from];
    if location.starts_with('/') {
        return Some(format!("{scheme}://{host}{location}"));
    }
    let path = rest[path_from..].split('?').next().unwrap_or_default();
    let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
    Some(format!("{scheme}://{host}{}{location}", if folder.is_empty() { "/" } else { folder }))
}

/// The address of `rel="next"` in a `Link` header.
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next")).then_some(address)
    })
}

/// A part of an address: everything but letters, digits and `-._~` is written as its bytes, `/` too unless it is `kept`.
pub(crate) fn quoted(text: &str, keeps_slash: bool) -> String {
    text.bytes().fold(String::new(), |mut quoted, byte| {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => quoted.push(byte.into()),
            b'/' if keeps_slash => quoted.push('/'),
            _ => quoted += &format!("%{byte:02X}"),
        }
        quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        for (base, location, expected) in [
            ("http://a/x/y?q", "https://b/c", Some("https://b/c")),
            ("http://a/x/y?q", "//b/c", Some("http://b/c")),
            ("http://a:1/x/y?q", "/c?d", Some("http://a:1/c?d")),
            ("http://a/x/y?q=/z", "c", Some("http://a/x/c")),
            ("http://a", "c", Some("http://a/c")),
            ("http://a/x", "file:///etc/passwd", None),
            ("http://a/x", "", None),
        ] {
            assert_eq!(join(base, location).as_deref(), expected, "{base} {location}");
        }
        assert_eq!(next_page("<a>; rel=\"prev\", <b?c=d>; rel=\"next\""), Some("b?c=d"));
        assert_ne!(origin("http://hub@evil/"), origin("http://hub/"));
        assert_eq!(quoted("refs/pr/1 ü", false), "refs%2Fpr%2F1%20%C3%BC");
    }
}
