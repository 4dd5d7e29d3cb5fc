//! What no compiler checks: no file of a crate takes part in a circle of imports.
//!
//! Reads `use` lines, paths that begin with `crate::` or `super::`, and paths through an imported module. A name that a module
//! re-exports counts where it is defined, so that `use crate::Result` is an import of `error.rs` and not of `lib.rs`; what a
//! `pub use` or a `mod` names is no import. Tests inside of a file are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Name = Vec<String>;

/// A module that has a file.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The text without comments, strings and tests.
    text: String,
    /// Name here, path there.
    reexports: Vec<(String, Name)>,
    /// What is imported: name here, path there; a name of `*` is all.
    imports: Vec<(String, Name)>,
}

/// The modules of a crate by their path from its root.
struct Modules(BTreeMap<Name, Module>);

impl Modules {
    fn read(src: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut folders = vec![(src.to_path_buf(), Name::new())];
        while let Some((folder, path)) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let file = entry.expect("an entry").path();
                let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_string();
                let below = || [path.clone(), vec![stem.clone()]].concat();
                if file.is_dir() {
                    folders.push((file, below()));
                } else if file.extension().is_some_and(|extension| extension == "rs") {
                    let path = if ["lib", "main", "mod"].contains(&stem.as_str()) { path.clone() } else { below() };
                    let text = code_of(&fs::read_to_string(&file).expect("a source"));
                    modules.insert(path, Module { file, text, ..Module::default() });
                }
            }
        }
        let mut modules = Self(modules);
        for path in modules.0.keys().cloned().collect::<Vec<_>>() {
            let (mut reexports, mut imports) = (Vec::new(), Vec::new());
            for (public, tree) in uses(&modules.0[&path].text) {
                for (name, target) in expand(&tree) {
                    let Some(target) = modules.absolute(&path, &target) else { continue };
                    if public { &mut reexports } else { &mut imports }.push((name, target));
                }
            }
            let module = modules.0.get_mut(&path).expect("it was listed");
            (module.reexports, module.imports) = (reexports, imports);
        }
        modules
    }

    /// The path from the root of the crate, if it is one inside of the crate.
    fn absolute(&self, module: &Name, path: &[String]) -> Option<Name> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => self
                .absolute(&module[..module.len().checked_sub(1)?].to_vec(), rest)
                .or_else(|| Some([&module[..module.len() - 1], rest].concat())),
            _ => {
                let child = [module.as_slice(), &path[..1]].concat();
                self.0.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }

    /// The module that defines what `path` names.
    fn definer(&self, path: &[String], depth: usize) -> Name {
        let mut module = Name::new();
        for (i, name) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(name)].concat();
            if self.0.contains_key(&child) {
                module = child;
                continue;
            }
            let reexports = &self.0[&module].reexports;
            let named = reexports.iter().find(|(here, _)| here == name).map(|(_, target)| target.clone());
            if let Some(target) = named.filter(|_| depth < 8) {
                return self.definer(&[&target, &path[i + 1..]].concat(), depth + 1);
            }
            for (_, target) in reexports.iter().filter(|(here, _)| here == "*" && depth < 8) {
                let found = self.definer(&[target.as_slice(), &path[i..]].concat(), depth + 1);
                if self.defines(&found, name) {
                    return found;
                }
            }
            return module;
        }
        module
    }

    fn defines(&self, module: &Name, name: &str) -> bool {
        let text = &self.0[module].text;
        ["fn ", "struct ", "enum ", "trait ", "type ", "const ", "static ", "macro_rules! "]
            .iter()
            .any(|keyword| words_after(text, keyword).any(|word| word == name))
    }

    /// The modules that a module needs.
    fn needs(&self, path: &Name) -> BTreeSet<Name> {
        let module = &self.0[path];
        let mut targets: Vec<Name> = Vec::new();
        for (name, target) in &module.imports {
            if name == "*" || !self.0.contains_key(target) {
                targets.push(target.clone());
                continue;
            }
            // A module by its name: what is used of it counts.
            let start = format!("{name}::");
            targets.extend(words_after(&module.text, &start).map(|word| [target.clone(), vec![word]].concat()));
        }
        for start in ["crate::", "super::"] {
            for tail in paths_after(&module.text, start) {
                let whole = [vec![start[..5].to_string()], tail].concat();
                targets.extend(self.absolute(path, &whole));
            }
        }
        let definers = targets.iter().map(|target| self.definer(target, 0));
        definers.filter(|definer| definer != path).collect()
    }

    /// A circle of modules, if there is one.
    fn circle(&self) -> Option<Vec<Name>> {
        let needs: BTreeMap<_, _> = self.0.keys().map(|path| (path, self.needs(path))).collect();
        let mut done = BTreeSet::new();
        for start in self.0.keys() {
            if let Some(circle) = walk(start, &needs, &mut Vec::new(), &mut done) {
                return Some(circle);
            }
        }
        None
    }
}

fn walk(
    at: &Name,
    needs: &BTreeMap<&Name, BTreeSet<Name>>,
    way: &mut Vec<Name>,
    done: &mut BTreeSet<Name>,
) -> Option<Vec<Name>> {
    if let Some(start) = way.iter().position(|passed| passed == at) {
        return Some(way[start..].to_vec());
    }
    if done.contains(at) {
        return None;
    }
    way.push(at.clone());
    let found = needs[at].iter().find_map(|next| walk(next, needs, way, done));
    way.pop();
    done.insert(at.clone());
    found
}

/// Without comments, the insides of strings, and modules of tests.
fn code_of(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod ").next().expect("a text has a first part");
    let lines = source.lines().map(|line| {
        let line = line.split("//").next().expect("a line has a first part");
        // A string holds no path that counts.
        line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The trees of the `use` lines, and whether each is public.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let line = &rest[rest[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        let after = &rest[at + 4..];
        let end = after.find(';').unwrap_or(after.len());
        let visibility = line.trim();
        if visibility.is_empty() || visibility.starts_with("pub") {
            let tree: String = after[..end].split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((!visibility.is_empty(), tree));
        }
        rest = &after[end..];
    }
    found
}

/// The names of a tree of imports, each with its path.
fn expand(tree: &str) -> Vec<(String, Name)> {
    let tree = tree.trim();
    if let Some((before, inside)) = tree.split_once('{') {
        let inside = inside.strip_suffix('}').unwrap_or(inside);
        let before: Name =
            before.split("::").map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect();
        let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
        for (i, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&inside[start..i]);
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&inside[start..]);
        let all = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(expand);
        return all
            .map(|(name, path)| {
                let path: Name = path.into_iter().filter(|part| part != "self").collect();
                let whole = [before.clone(), path].concat();
                let name = if name == "self" { whole.last().cloned().unwrap_or_default() } else { name };
                (name, whole)
            })
            .collect();
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path: Name = path.split("::").map(|part| part.trim().to_string()).collect();
    let name = alias.unwrap_or(path.last().map_or("", String::as_str)).to_string();
    if path.last().is_some_and(|last| last == "*") {
        path.pop();
    }
    vec![(name, path)]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words that stand right behind `start`, where that is not the end of a longer word.
fn words_after<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = String> + 'a {
    text.match_indices(start).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let word: String = text[at + start.len()..].chars().take_while(|&c| is_word(c)).collect();
        (!before.is_some_and(|c| is_word(c) || c == ':') && !word.is_empty()).then_some(word)
    })
}

/// The paths that begin with `start`, without it and outside of `use` lines with braces.
fn paths_after(text: &str, start: &str) -> Vec<Name> {
    let found = text.match_indices(start).filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        if before.is_some_and(|c| is_word(c) || c == ':') || line.contains("use ") || line.contains("pub(in") {
            return None;
        }
        let tail: String = text[at + start.len()..].chars().take_while(|&c| is_word(c) || c == ':').collect();
        let path: Name = tail.split("::").filter(|part| !part.is_empty()).map(str::to_string).collect();
        (!path.is_empty()).then_some(path)
    });
    found.collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

#[test]
fn no_file_takes_part_in_a_circle_of_imports() {
    let crates = fs::read_dir(root().join("crates")).expect("the crates").map(|entry| entry.expect("a crate").path());
    let all: Vec<PathBuf> = crates.chain([root().join("datasets"), root().join("xtask")]).collect();
    assert!(all.len() > 6, "{all:?}");
    let mut circles = Vec::new();
    for folder in all.iter().map(|folder| folder.join("src")).chain([root().join("benches/benches/benchmarks")]) {
        let modules = Modules::read(&folder);
        if let Some(circle) = modules.circle() {
            let files = circle.iter().map(|path| modules.0[path].file.display().to_string());
            circles.push(files.collect::<Vec<_>>().join("\n  needs "));
        }
    }
    assert!(circles.is_empty(), "circles of imports:\n{}", circles.join("\n\n"));
}

/// The test above would see a circle, through a re-export, an inline path and a module's name.
#[test]
fn a_circle_is_seen() {
    let write = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("b")).expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let circle = Modules::read(folder.path()).circle();
        circle.map(|circle| circle.iter().map(|path| path.join("::")).collect::<Vec<_>>())
    };
    let lib = ("lib.rs", "mod a;\nmod b;\npub use b::{c::C, D};\n");
    let b = ("b/mod.rs", "pub mod c;\npub struct D;\n");
    let plain = |a: &str, c: &str| write(&[lib, b, ("a.rs", a), ("b/c.rs", c)]);
    assert_eq!(plain("use crate::C;\npub struct A;", "use super::D;\npub struct C;"), None);
    let expected = Some(vec!["a".to_string(), "b::c".to_string()]);
    assert_eq!(plain("use crate::C;\npub struct A;", "use crate::a::A;\npub struct C;"), expected);
    assert_eq!(plain("use crate::b::{self, D};\nfn f(_: b::c::C) {}", "pub struct C(crate::a::A);"), expected);
    assert_eq!(plain("use crate::{\n    C,\n};", "use super::super::a;\npub struct C(a::A);"), expected);
    assert_eq!(plain("// use crate::C;\n", "use crate::a::A;\npub struct C;"), None);
    assert_eq!(plain("#[cfg(test)]\nmod tests {\n    use crate::C;\n}", "use crate::a::A;\npub struct C;"), None);
}
