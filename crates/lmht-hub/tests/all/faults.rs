//! Faults of the network and of the Hub: what passes is got over within one call, what stays is told with what to do.

use lmht_hub::{Error, Settings};

use crate::server::{End, Reply, Request};
use crate::world::{World, bytes, client, two_files};

fn weights(request: &Request) -> bool {
    request.path.starts_with("/cdn/")
}

fn resolve(request: &Request) -> bool {
    request.path.contains("/resolve/") && request.path.ends_with("config.json")
}

fn api(request: &Request) -> bool {
    request.path.starts_with("/api/")
}

/// The large file as the host for it would send it.
fn large(request: &Request) -> Reply {
    bytes(&two_files()[1].bytes, request)
}

type Case = (&'static str, Box<dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync>);

fn case(name: &'static str, fault: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Case {
    (name, Box::new(fault))
}

#[test]
fn faults_that_pass_are_got_over() {
    let cases = [
        case("nothing is wrong", |_, _| None),
        case("the list breaks off once", |r, n| {
            (api(r) && n == 0).then(|| Reply::new(200, "[{\"ty").ending(End::Cut(2)))
        }),
        case("500 twice", |r, n| (n < 2 && !weights(r)).then(|| Reply::new(500, ""))),
        case("503 from the other host", |r, n| (n < 2 && weights(r)).then(|| Reply::new(503, "later"))),
        case("429 with Retry-After", |r, n| {
            (n == 0).then(|| Reply::new(429, "").with("Retry-After", "0")).filter(|_| api(r))
        }),
        case("429 at a file", |r, n| (n == 0 && weights(r)).then(|| Reply::new(429, "").with("Retry-After", "0"))),
        case("Retry-After as a date", |r, n| {
            (n == 0 && api(r)).then(|| Reply::new(429, "").with("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"))
        }),
        case("no answer once", |r, n| (n == 0).then(|| Reply::new(200, "").ending(End::NoAnswer)).filter(|_| api(r))),
        case("cut, then resumed", |r, n| (n < 3 && weights(r)).then(|| large(r).ending(End::Cut(500)))),
        case("cut often, but further each time", |r, n| (n < 12 && weights(r)).then(|| large(r).ending(End::Cut(100)))),
        case("cut, and ranges ignored", |r, n| {
            weights(r).then(|| {
                let whole = Reply::new(200, two_files()[1].bytes.clone());
                if n == 0 { whole.ending(End::Cut(700)) } else { whole }
            })
        }),
        case("cut, then 206 from the wrong place", |r, n| match (weights(r), n) {
            (true, 0) => Some(large(r).ending(End::Cut(700))),
            (true, 1) => {
                Some(Reply::new(206, &two_files()[1].bytes[600..]).with("Content-Range", "bytes 600-7999/8000"))
            }
            _ => None,
        }),
        case("cut, then 206 without Content-Range", |r, n| match (weights(r), n) {
            (true, 0) => Some(large(r).ending(End::Cut(700))),
            (true, 1) => Some(Reply::new(206, &two_files()[1].bytes[700..])),
            _ => None,
        }),
        case("206 that was not asked for", |r, n| {
            (weights(r) && n == 0)
                .then(|| Reply::new(206, &two_files()[1].bytes[..100]).with("Content-Range", "bytes 0-99/8000"))
        }),
        case("cut, then 416", |r, n| match (weights(r), n) {
            (true, 0) => Some(large(r).ending(End::Cut(700))),
            (true, 1) => Some(Reply::new(416, "")),
            _ => None,
        }),
        case("silence once", |r, n| (n == 0 && weights(r)).then(|| large(r).ending(End::Silent(300)))),
        case("slow, but moving", |r, _| {
            resolve(r).then(|| Reply::new(200, two_files()[0].bytes.clone()).ending(End::Slow))
        }),
        case("in chunks, without a length", |r, _| {
            weights(r).then(|| Reply::new(200, two_files()[1].bytes.clone()).ending(End::Chunked))
        }),
        case("damaged once", |r, n| (n == 0 && weights(r)).then(|| Reply::new(200, vec![7; 8000]))),
        case("a plain file damaged once", |r, n| (n == 0 && resolve(r)).then(|| Reply::new(200, "{\"a\": 2}"))),
        case("another file once", |r, n| (n == 0 && weights(r)).then(|| Reply::new(200, "version https://git-lfs"))),
        case("a relative redirect", |r, n| match r.path.as_str() {
            "/moved?a=/b" => Some(Reply::new(200, two_files()[0].bytes.clone())),
            _ => {
                (resolve(r) && n == 0).then(|| Reply::new(307, "moved, in some words").with("Location", "/moved?a=/b"))
            }
        }),
        case("hostile ETag", |r, _| {
            resolve(r).then(|| Reply::new(200, two_files()[0].bytes.clone()).with("ETag", "\"../../../../evil\""))
        }),
        case("hostile commit in a header", |r, _| {
            resolve(r).then(|| Reply::new(200, two_files()[0].bytes.clone()).with("X-Repo-Commit", "../../evil"))
        }),
        case("no ETag", |r, _| resolve(r).then(|| Reply::new(200, two_files()[0].bytes.clone()))),
        case("a weak ETag", |r, _| {
            resolve(r).then(|| Reply::new(200, two_files()[0].bytes.clone()).with("ETag", "W/\"1-2\""))
        }),
    ];
    for (name, fault) in cases {
        let world = World::new(fault);
        let folder = world.fetch().unwrap_or_else(|error| panic!("{name}: {error}"));
        world.check(&folder);
        // Nothing but the cache was written, and nothing is left of the way.
        let beside: Vec<_> =
            std::fs::read_dir(world.folder.path()).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(beside, ["cache"], "{name}");
        assert_eq!(std::fs::read_dir(world.cache().join("blobs")).unwrap().count(), 2, "{name}");
        // The host of large files never sees the token; the Hub does.
        assert!(world.cdn.seen().iter().all(|request| !request.headers.contains_key("authorization")), "{name}");
        assert!(
            world.hub.seen().iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"),
            "{name}"
        );
    }
}

#[test]
fn faults_that_stay_are_told() {
    let cases: Vec<(Case, &[&str])> = vec![
        (case("401", |_, _| Some(Reply::new(401, ""))), &["401", "owner/name", "private or gated", "HF_TOKEN"]),
        (
            case("gated", |r, _| (!api(r)).then(|| Reply::new(403, "").with("X-Error-Code", "GatedRepo"))),
            &["403", "config.json", "accept its conditions"],
        ),
        (case("403", |_, _| Some(Reply::new(403, ""))), &["403", "forbidden", "hf auth login"]),
        (case("404", |_, _| Some(Reply::new(404, ""))), &["404", "check the name"]),
        (
            case("no revision", |_, _| Some(Reply::new(404, "").with("X-Error-Code", "RevisionNotFound"))),
            &["404", "revision", "@"],
        ),
        (
            case("listed, but not there", |r, _| {
                resolve(r).then(|| Reply::new(404, "").with("X-Error-Code", "EntryNotFound"))
            }),
            &["404", "config.json", "no such file"],
        ),
        (case("429 for ever", |_, _| Some(Reply::new(429, ""))), &["429", "wait some minutes"]),
        (case("429 for a day", |_, _| Some(Reply::new(429, "").with("Retry-After", "86400"))), &["429", "wait"]),
        (case("500 for ever", |_, _| Some(Reply::new(500, ""))), &["500", "try again later"]),
        (case("418", |_, _| Some(Reply::new(418, ""))), &["418", "HF_ENDPOINT"]),
        (case("never an answer", |_, _| Some(Reply::new(200, "").ending(End::NoAnswer))), &["no answer", "network"]),
        (
            case("silence for ever", |r, _| weights(r).then(|| large(r).ending(End::Silent(0)))),
            &["0 of 8000", "HF_HUB_OFFLINE"],
        ),
        (
            case("damaged for ever", |r, _| weights(r).then(|| Reply::new(200, vec![7; 8000]))),
            &["damaged", "SHA-256", "nothing of it"],
        ),
        (
            case("a plain file damaged", |r, _| resolve(r).then(|| Reply::new(200, "{\"a\": 2}"))),
            &["damaged", "git SHA-1"],
        ),
        (case("too short", |r, _| weights(r).then(|| Reply::new(200, vec![7; 100]))), &["expected 8000 bytes", "100"]),
        (
            case("too short in chunks", |r, _| weights(r).then(|| Reply::new(200, vec![7; 100]).ending(End::Chunked))),
            &["100 of 8000 bytes"],
        ),
        (case("too long", |r, _| weights(r).then(|| Reply::new(200, vec![7; 9000]))), &["expected 8000 bytes", "9000"]),
        (
            case("endless", |r, _| weights(r).then(|| Reply::new(200, vec![7; 9000]).ending(End::Endless))),
            &["8000", "more came"],
        ),
        (
            case("endless list", |r, _| api(r).then(|| Reply::new(200, vec![b' '; 1 << 20]).ending(End::Endless))),
            &["JSON", "more came"],
        ),
        (
            case("a page of HTML", |_, _| Some(Reply::new(200, "<html>log in to this hotel"))),
            &["expected an answer of the Hub's API"],
        ),
        (
            case("compressed on its way", |r, _| {
                weights(r).then(|| Reply::new(200, vec![7; 8000]).with("Content-Encoding", "gzip"))
            }),
            &["Content-Encoding"],
        ),
        (
            case("a loop of redirects", |r, _| {
                (!api(r)).then(|| Reply::new(302, "").with("Location", "/x/resolve/config.json"))
            }),
            &["10 redirects"],
        ),
        (
            case("a redirect to a file", |_, _| Some(Reply::new(302, "").with("Location", "file:///etc/passwd"))),
            &["redirect", "file:"],
        ),
        (case("a redirect to nowhere", |_, _| Some(Reply::new(302, ""))), &["redirect to a web address"]),
        (case("a broken address", |_, _| Some(Reply::new(302, "").with("Location", "http://[::x"))), &["web address"]),
        (
            case("what it says is for a terminal", |_, _| {
                Some(Reply::new(404, "").with("X-Error-Message", "no\tsuch thing"))
            }),
            &["it says: nosuch thing"],
        ),
        (
            case("the next page elsewhere", |r, _| {
                r.path
                    .contains("/tree/")
                    .then(|| Reply::new(200, "[]").with("Link", "<http://127.0.0.1:1/x>; rel=\"next\""))
            }),
            &["next page on the same host"],
        ),
    ];
    for ((name, fault), expected) in cases {
        let world = World::new(fault);
        let error = world.fetch().map(|_| ()).expect_err(name).to_string();
        for part in expected {
            assert!(error.contains(part), "{name}: expected {part:?} in: {error}");
        }
        assert!(!error.contains("hf_secret"), "{name}: {error}");
        assert!(world.cdn.seen().iter().all(|request| !request.headers.contains_key("authorization")), "{name}");
        // What is in the cache under a final name is whole.
        for (index, file) in world.files.iter().enumerate() {
            if let Ok(found) = std::fs::read(world.blob(index)) {
                assert!(found == file.bytes, "{name}");
            }
        }
    }
}

#[test]
fn pages_that_follow_each_other_in_a_circle_end() {
    let world = World::new(|request, _| {
        let host = &request.headers["host"];
        let link = format!("<http://{host}{}>; rel=\"next\"", request.path);
        request.path.contains("/tree/").then(|| Reply::new(200, "[]").with("Link", link))
    });
    assert!(world.fetch().unwrap_err().to_string().contains("without an end"));
}

#[test]
fn a_list_of_several_pages_is_one() {
    let world = World::new(|request, _| {
        let files = two_files();
        let host = &request.headers["host"];
        let link = format!("<http://{host}/api/page?cursor=2>; rel=\"next\"");
        match request.path.as_str() {
            "/api/page?cursor=2" => Some(Reply::new(200, crate::world::tree(&files[1..]))),
            path if path.contains("/tree/") => {
                Some(Reply::new(200, crate::world::tree(&files[..1])).with("Link", link))
            }
            _ => None,
        }
    });
    world.check(&world.fetch().unwrap());
}

#[test]
fn without_a_token_it_says_so() {
    let world = World::new(|_, _| Some(Reply::new(401, "").with("X-Error-Code", "GatedRepo")));
    let error = world.fetch_with(&client(Settings { token: None, ..world.settings() })).unwrap_err();
    assert!(matches!(error, Error::Status { status: 401, .. }), "{error}");
    assert!(error.to_string().contains("no token was sent"), "{error}");
}

#[test]
fn nobody_listens() {
    let world = World::new(|_, _| None);
    let settings = Settings { endpoint: "http://127.0.0.1:9".into(), ..world.settings() };
    let error = world.fetch_with(&client(settings)).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:9") && error.contains("HF_HUB_OFFLINE"), "{error}");
}
