//! A small HTTP server that answers as it is told, also against the rules.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// With the query.
    pub(crate) path: String,
    pub(crate) is_head: bool,
    /// Names in small letters.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    /// The first byte that is asked for, if not all are.
    pub(crate) fn from(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Whole,
    /// The connection is closed after so many bytes.
    Cut(usize),
    /// Nothing comes after so many bytes, and the connection stays.
    Silent(usize),
    /// The body again and again, in chunks.
    Endless,
    /// In chunks, without a length.
    Chunked,
    /// A byte at a time.
    Slow,
    /// Closed before any answer.
    NoAnswer,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The length that is told, if it is not the true one.
    pub(crate) length: Option<u64>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None, end: End::Whole }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Some\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if matches!(self.end, End::Endless | End::Chunked) {
            head + "Transfer-Encoding: chunked\r\n\r\n"
        } else {
            head + &format!("Content-Length: {}\r\n\r\n", self.length.unwrap_or(self.body.len() as u64))
        }
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(self.head().as_bytes())?;
        let chunk = |stream: &mut TcpStream| {
            write!(stream, "{:x}\r\n", self.body.len())?;
            stream.write_all(&self.body)?;
            stream.write_all(b"\r\n")
        };
        match self.end {
            End::Whole | End::NoAnswer => stream.write_all(&self.body),
            End::Cut(n) => stream.write_all(&self.body[..n]),
            End::Silent(n) => {
                stream.write_all(&self.body[..n])?;
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            }
            End::Slow => self.body.iter().try_for_each(|byte| {
                std::thread::sleep(Duration::from_millis(2));
                stream.write_all(&[*byte])
            }),
            End::Chunked => {
                chunk(stream)?;
                stream.write_all(b"0\r\n\r\n")
            }
            End::Endless => loop {
                chunk(stream)?;
            },
        }
    }
}

/// Listens until the process ends.
#[derive(Clone)]
pub(crate) struct Server {
    /// `http://127.0.0.1:1234`.
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (reply, log) = (Arc::new(reply), seen.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (reply, log) = (reply.clone(), log.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    log.lock().unwrap().push(request.clone());
                    let reply = reply(&request);
                    if request.is_head {
                        _ = stream.write_all(reply.head().as_bytes());
                    } else if reply.end != End::NoAnswer {
                        // A client that has seen enough goes away.
                        _ = reply.send(&mut stream);
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// Every question so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next()?.ok()?;
    let (path, is_head) = (first.split(' ').nth(1)?.to_owned(), first.starts_with("HEAD "));
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { path, is_head, headers })
}
