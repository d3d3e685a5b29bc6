//! The house rules that the compiler cannot watch: who may import whom, where each foreign crate lives, what is pure,
//! and that the papers tell the truth about settings, routes, files, tests and constants.
//!
//! The rules are tables. [`HOUSE`] is also compared with the drawing in `src/lib.rs`, so that the drawing cannot lie.
//! Sources are read as tokens ([`tokens`]), not as lines: comments and texts do not count, grouped imports do. Each rule
//! is a function from input to complaints, and each is shown to complain about input made up for it: a check that
//! cannot fail checks nothing. It knows Rust only as far as paths and braces go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails, its helpers included")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use quorate::config::SETTINGS;

/// A module with a place in the house. Files of its own modules belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    floor: u32,
    path: &'static str,
    /// The foreign crate that the drawing names with it.
    guest: Option<&'static str>,
}

const fn room(floor: u32, path: &'static str, guest: Option<&'static str>) -> Room {
    Room { floor, path, guest }
}

/// The drawing of `src/lib.rs`, from the roof down.
const HOUSE: &[Room] = &[
    room(5, "main", None),
    room(5, "cli", None),
    room(4, "node", None),
    room(3, "http", Some("axum")),
    room(2, "replication", None),
    room(2, "replication::quorum", None),
    room(2, "replication::raft", Some("openraft")),
    room(1, "wire", Some("reqwest")),
    room(1, "observe", Some("hdrhistogram")),
    room(1, "tasks", Some("tokio-util")),
    room(1, "timer", None),
    room(1, "config", Some("envy")),
    room(0, "store", Some("dashmap")),
    room(0, "address", Some("url")),
];

/// Imports on the same floor that are meant to be.
const NEIGHBOURS: &[(&str, &str)] = &[("main", "cli")];

/// Modules that may import less than their floor would allow: only what begins with one of these.
const NARROW: &[(&str, &[&str])] = &[
    (
        "cli::bench",
        &[
            "wire",
            "observe",
            "timer",
            "config",
            "address",
            "cli::bench",
            "cli::cluster",
            "cli::CliError",
            "cli::print",
        ],
    ),
    ("cli::client", &["wire", "config", "address", "cli::CliError", "cli::print"]),
    ("cli::status", &["wire", "config", "address", "cli::client", "cli::CliError", "cli::print"]),
    ("cli::cluster", &["wire", "config", "address", "cli"]),
    ("replication::outcome", &["store"]),
    ("http", &["replication", "store", "wire", "config", "tasks", "http"]),
];

/// Where a foreign crate may be named. The others are of the kind that goes everywhere (serde, futures, bytes).
const HOMES: &[(&str, &[&str])] = &[
    ("axum", &["http"]),
    ("hyper", &["http", "wire::peers"]),
    ("hyper_util", &["http", "wire::peers"]),
    ("http_body_util", &["wire::peers"]),
    ("tower_service", &["http"]),
    ("mimalloc", &["main"]),
    ("utoipa", &["http"]),
    ("utoipa_axum", &["http"]),
    ("reqwest", &["wire"]),
    ("crc32fast", &["wire"]),
    ("openraft", &["replication::raft"]),
    ("openraft_rt_tokio", &["replication::raft"]),
    ("openraft_rt", &["replication::raft"]),
    ("rand_core", &["replication::raft"]),
    ("rusqlite", &["replication::raft::database"]),
    ("dashmap", &["store"]),
    ("envy", &["config"]),
    ("hdrhistogram", &["observe"]),
    ("tokio_util", &["tasks"]),
    ("url", &["address"]),
    ("clap", &["cli", "main"]),
    ("indicatif", &["cli::bench"]),
    ("plotters", &["cli::bench::report::picture"]),
    ("maud", &["cli::bench::report::page"]),
    ("humantime", &["cli::bench::machine"]),
    ("tracing_subscriber", &["cli::serve"]),
    ("rustix", &["cli::serve", "cli::cluster::local", "cli::bench::cost", "timer"]),
];

/// All of this crate that examples may use: they see the program as its users do.
const FOR_EXAMPLES: &[&str] = &["observe"];

/// Files that decide and do nothing: their code outside of tests names none of [`IMPURE`].
const PURE: &[&str] = &[
    "replication/quorum/backlog.rs",
    "replication/quorum/delay.rs",
    "replication/quorum/progress.rs",
    "replication/quorum/ranges.rs",
    "replication/quorum/recovery.rs",
    "replication/quorum/tally.rs",
    "replication/quorum/follower.rs",
    "replication/raft/types.rs",
    "replication/raft/view.rs",
    "config/check.rs",
    "config/units.rs",
    "http/json.rs",
    "http/query.rs",
    "store/mod.rs",
    "store/entry.rs",
    "cli/bench/report.rs",
    "cli/bench/report/axis.rs",
    "cli/bench/report/gallery.rs",
    "cli/bench/report/numbers.rs",
    "cli/bench/report/page.rs",
    "cli/bench/report/picture.rs",
    "cli/bench/report/text.rs",
    "cli/bench/compare.rs",
    "../examples/measure/report.rs",
    "../examples/measure/rows.rs",
];
const IMPURE: &[&str] = &[
    "async",
    "await",
    "Instant::now",
    "SystemTime",
    "UNIX_EPOCH",
    "tracing",
    "Transport",
    "TcpStream",
    "spawn",
];

// ---- reading ----------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below `folder` whose names end so, relative to the root.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} in {folder}");
    found
}

/// A source file: its module path (`replication::quorum::link`) and its text.
struct Source {
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> = files("src", ".rs")
        .iter()
        .map(|path| {
            let inner = path.strip_prefix("src").unwrap().with_extension("");
            let mut parts: Vec<&str> = inner.iter().map(|part| part.to_str().unwrap()).collect();
            parts.pop_if(|last| ["mod", "lib"].contains(last));
            Source { module: parts.join("::"), text: read(path) }
        })
        .collect();
    assert!(sources.len() > 40, "only {} sources were found", sources.len());
    sources
}

/// Identifiers and signs of a Rust text (`::` is one sign), without comments, texts, characters and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                    i += 1;
                }
                i += 2;
            }
            '"' => i = end_of_text(&chars, i),
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' => {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
            ':' if at(i + 1) == ':' => {
                found.push("::".to_owned());
                i += 2;
            }
            c if is_word(c) => {
                let start = i;
                while is_word(at(i)) {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                // A raw text: r"…", br#"…"#.
                let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
                if ["r", "br"].contains(&word.as_str()) && at(i + hashes) == '"' {
                    i += hashes + 1;
                    let is_end = |i: usize| {
                        at(i) == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
                    };
                    while i < chars.len() && !is_end(i) {
                        i += 1;
                    }
                    i += hashes + 1;
                } else if word != "b" || at(i) != '"' {
                    found.push(word);
                }
            }
            c if c.is_whitespace() => i += 1,
            c => {
                found.push(c.to_string());
                i += 1;
            }
        }
    }
    found
}

/// The place after a text that begins at `i`.
fn end_of_text(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// All paths named in a source, each from its root, with groups spelled out; those that begin with `super` and `self`
/// and those of this crate as `crate::…`.
fn paths(source: &Source) -> Vec<String> {
    let tokens = tokens(&source.text);
    let is_word = |token: &str| token.chars().all(|c| c.is_alphanumeric() || c == '_');
    let home: Vec<String> = source.module.split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect();
    // Modules within the file, each with the depth of its braces.
    let (mut inner, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let (mut found, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        match tokens[i].as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inner.pop_if(|(_, at)| *at == depth);
            }
            "mod" if tokens.get(i + 2).is_some_and(|token| token == "{") => {
                inner.push((tokens[i + 1].clone(), depth));
                i += 1;
            }
            word if is_word(word) && tokens.get(i + 1).is_some_and(|token| token == "::") => {
                let here = || home.iter().cloned().chain(inner.iter().map(|(name, _)| name.clone()));
                let (mut base, mut next) = (vec![word.to_owned()], i + 2);
                if word == "super" || word == "self" || word == "quorate" || word == "crate" {
                    base = match word {
                        "super" | "self" => here().collect(),
                        _ => Vec::new(),
                    };
                    if word == "super" {
                        base.pop();
                    }
                    while tokens[next] == "super" {
                        base.pop();
                        next += 2;
                    }
                    base.insert(0, "crate".to_owned());
                }
                i = spell_out(&tokens, next, &base, &mut found);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Reads what follows `base::`, which begins at `i`. Gives the place after it.
fn spell_out(tokens: &[String], mut i: usize, base: &[String], found: &mut Vec<String>) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(i).map(String::as_str) {
            Some("{") => {
                i += 1;
                while tokens[i] != "}" {
                    i = match tokens[i].as_str() {
                        "," => i + 1,
                        _ => spell_out(tokens, i, &path, found),
                    };
                    // `a as b`
                    if tokens[i] == "as" {
                        i += 2;
                    }
                }
                return i + 1;
            }
            Some("*") => {
                i += 1;
                break;
            }
            Some("<") | None => break,
            Some(word) => path.push(word.to_owned()),
        }
        i += 1;
        if tokens.get(i).is_none_or(|token| token != "::") {
            break;
        }
        i += 1;
    }
    found.push(path.join("::"));
    i
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn room_of(path: &str) -> Option<&'static Room> {
    HOUSE.iter().filter(|room| is_within(path, room.path)).max_by_key(|room| room.path.len())
}

/// What a source imports of this crate, as module paths without `crate`.
fn imports(source: &Source) -> Vec<String> {
    let of_crate =
        paths(source).into_iter().filter_map(|path| Some(path.strip_prefix("crate::")?.to_owned()));
    of_crate.filter(|path| room_of(path).is_some()).collect()
}

// ---- rules ------------------------------------------------------------------------------------------------------------

/// Imports go down, or stay within the file's own top module; the modes never import each other.
fn check_floors(source: &Source) -> Vec<String> {
    let Some(own) = room_of(&source.module) else { return Vec::new() };
    let top = |path: &str| path.split("::").next().unwrap_or_default().to_owned();
    let is_allowed = |target: &str| {
        let room = room_of(target).unwrap();
        let is_same_house = top(own.path) == top(room.path)
            // Two rooms of one house, neither of which holds the other, are two modes.
            && (is_within(own.path, room.path) || is_within(room.path, own.path));
        room.floor < own.floor || is_same_house || NEIGHBOURS.contains(&(own.path, room.path))
    };
    let wrong = imports(source).into_iter().filter(|target| !is_allowed(target));
    wrong.map(|target| format!("{} (floor {}) imports {target}", source.module, own.floor)).collect()
}

fn check_narrow(source: &Source) -> Vec<String> {
    let rules = NARROW.iter().filter(|(module, _)| is_within(&source.module, module));
    rules
        .flat_map(|(module, allowed)| {
            let is_allowed = |target: &String| {
                is_within(target, module) || allowed.iter().any(|prefix| is_within(target, prefix))
            };
            imports(source).into_iter().filter(move |target| !is_allowed(target))
        })
        .map(|target| format!("{} imports {target}, which is not for it", source.module))
        .collect()
}

fn check_homes(source: &Source) -> Vec<String> {
    let paths = paths(source);
    HOMES
        .iter()
        .filter(|(_, homes)| !homes.iter().any(|home| is_within(&source.module, home)))
        .filter(|(guest, _)| paths.iter().any(|path| path.split("::").next() == Some(guest)))
        .map(|(guest, homes)| format!("{} names {guest}, which lives in {}", source.module, homes.join(", ")))
        .collect()
}

fn check_outside(source: &Source) -> Vec<String> {
    let inside =
        imports(source).into_iter().filter(|path| !FOR_EXAMPLES.iter().any(|room| is_within(path, room)));
    inside.map(|path| format!("an example imports {path}")).collect()
}

fn check_pure(name: &str, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let (tokens, paths) = (tokens(code), paths(&Source { module: String::new(), text: code.to_owned() }));
    let is_named = |word: &&&str| {
        tokens.iter().any(|token| token == **word) || paths.iter().any(|path| path.ends_with(**word))
    };
    let named = IMPURE.iter().filter(is_named);
    named.map(|word| format!("{name} is to be pure and names {word}")).collect()
}

/// The drawing: rooms by floor, `name [guest] · name …` and then words; deeper lines are rooms within the one above.
fn drawn(lib: &str) -> BTreeSet<(u32, String, Option<String>)> {
    let lines = lib.lines().skip_while(|line| !line.starts_with("//! ```text")).skip(1);
    let mut rooms = BTreeSet::new();
    let (mut floor, mut outer) = (None, String::new());
    for line in lines.take_while(|line| !line.starts_with("//! ```")) {
        let line = line.strip_prefix("//! ").unwrap_or_default();
        if let Some(digit) = line.chars().next().and_then(|c| c.to_digit(10)) {
            floor = Some(digit);
        }
        let is_inner = line.starts_with("     ");
        let mut rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        loop {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let mut path = rest[..end].to_owned();
            if is_inner {
                path = format!("{outer}::{path}");
            } else {
                outer.clone_from(&path);
            }
            rest = rest[end..].trim_start();
            let guest = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            if let Some((_, after)) = guest {
                rest = after.trim_start();
            }
            rooms.insert((floor.unwrap(), path, guest.map(|(guest, _)| guest.to_owned())));
            match rest.strip_prefix('·') {
                Some(after) => rest = after.trim_start(),
                None => break,
            }
        }
    }
    rooms
}

/// The part of a paper under a heading, up to the next of the same rank.
fn section<'a>(paper: &'a str, heading: &str) -> &'a str {
    let rank = format!("\n{} ", heading.split(' ').next().unwrap());
    let start = paper.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}")) + 1;
    let body = &paper[start..];
    body[1..].find(&rank).map_or(body, |end| &body[..=end])
}

/// Cells of the tables in a paper, row by row, without heads and rules.
fn rows(paper: &str) -> Vec<Vec<String>> {
    let lines = paper.lines().filter(|line| line.starts_with("| `"));
    // `\|` stands for a stroke within a cell.
    let cells = |line: &str| -> Vec<String> {
        let line = line.replace("\\|", "\u{1}");
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    lines.map(cells).collect()
}

/// Every setting is in the table with its default, and nothing else is.
fn check_settings(table: &str, settings: &[(&str, &str)]) -> Vec<String> {
    let rows = rows(table);
    let mut wrong = Vec::new();
    for (name, default) in settings {
        match rows.iter().find(|row| row[0] == format!("`{name}`")) {
            None => wrong.push(format!("{name} is not in the table")),
            Some(row) if default.is_empty() && !row[1].contains('`') => {}
            Some(row) if row[1] == format!("`{default}`") => {}
            Some(row) => wrong.push(format!("{name}: {} in the table, {default:?} in the code", row[1])),
        }
    }
    let is_known = |row: &Vec<String>| settings.iter().any(|(name, _)| row[0] == format!("`{name}`"));
    wrong.extend(rows.iter().filter(|row| !is_known(row)).map(|row| format!("{} is no setting", row[0])));
    wrong
}

/// What stands between single backticks in a paper, paragraph by paragraph, outside of fenced blocks.
fn quoted(paper: &str) -> Vec<String> {
    let prose = paper.split("```").step_by(2);
    let paragraphs = prose.flat_map(|prose| prose.split("\n\n"));
    paragraphs.flat_map(|text| text.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Files named in a paper that are not there: links, quoted paths, quoted names of sources.
fn check_files(paper: &str, from: &str, all: &BTreeSet<String>) -> Vec<String> {
    let links = paper.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let links = links.filter(|link| !link.contains("://") && !link.starts_with('#')).map(|link| {
        let file = link.split('#').next().unwrap_or_default();
        match file.strip_prefix("../") {
            Some(up) => up.to_owned(),
            None => format!("{from}{file}"),
        }
    });
    let quoted: Vec<String> = quoted(paper);
    let is_path = |text: &&String| {
        let is_plain = text.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
        let is_ours = ["src/", "tests/", "examples/", "docs/", "scripts/", ".ci/"]
            .iter()
            .any(|start| text.starts_with(start));
        is_plain && (is_ours || text.ends_with(".rs"))
    };
    let quoted = quoted.iter().filter(is_path).map(|path| path.trim_end_matches('/').to_owned());
    let exists = |path: &String| {
        let short = format!("/{path}");
        all.iter().any(|file| {
            file == path
                || file.starts_with(&format!("{path}/"))
                || path.ends_with(".rs") && file.ends_with(&short)
        })
    };
    links.chain(quoted).filter(|path| !exists(path)).map(|path| format!("{path} is not there")).collect()
}

/// Routes in a paper: `POST /write`, `localhost:8000/read?…`.
fn check_routes(paper: &str, routes: &BTreeSet<String>) -> Vec<String> {
    let starts = ["GET /", "POST /", "localhost:800"];
    let mut named = Vec::new();
    for start in starts {
        for rest in paper.split(start).skip(1) {
            let rest =
                if start.ends_with('/') { rest } else { rest.split_once('/').map_or("", |(_, rest)| rest) };
            let is_path = |c: char| c.is_alphanumeric() || "./_{}".contains(c);
            let end = rest.find(|c: char| !is_path(c)).unwrap_or(rest.len());
            named.push(format!("/{}", rest[..end].trim_end_matches('/')));
        }
    }
    assert!(!named.is_empty(), "no route is named");
    named.retain(|route| !routes.contains(route));
    named.into_iter().map(|route| format!("{route} is no route")).collect()
}

fn routes() -> BTreeSet<String> {
    let peers = quorate::wire::PeerPath::ALL.map(|path| path.as_str().to_owned());
    let http: String = files("src/http", ".rs").iter().map(read).collect();
    let starts = ["path = \"/", ".route(\"/"];
    let own = starts.iter().flat_map(|start| http.split(start).skip(1));
    own.filter_map(|rest| Some(format!("/{}", rest.split('"').next()?))).chain(peers).collect()
}

/// Names in capitals that are neither settings nor constants of the code.
fn check_constants(paper: &str, known: &BTreeSet<String>) -> Vec<String> {
    let is_constant =
        |text: &String| text.contains('_') && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let named = quoted(paper).into_iter().filter(is_constant).filter(|name| !known.contains(name));
    named.map(|name| format!("{name} is neither a setting nor a constant")).collect()
}

/// Tests named in the last cells of a table that are not there.
fn check_tests(table: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let numbered = table.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let last = numbered.filter_map(|line| line.trim_end_matches(['|', ' ']).rsplit_once('|'));
    let named: Vec<String> =
        last.flat_map(|(_, cell)| quoted(cell)).filter(|name| !name.contains('/')).collect();
    assert!(!named.is_empty(), "no test is named");
    named
        .into_iter()
        .filter(|name| !tests.contains(name))
        .map(|name| format!("there is no test {name}"))
        .collect()
}

/// Names after `keyword` in all sources and tests.
fn defined(keyword: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files("src", ".rs").iter().chain(&files("tests", ".rs")) {
        let tokens = tokens(&read(path));
        names.extend(tokens.windows(2).filter(|pair| pair[0] == keyword).map(|pair| pair[1].clone()));
    }
    names
}

fn all_files() -> BTreeSet<String> {
    let folders = ["src", "tests", "examples", "docs", "scripts", ".ci"];
    let nested = folders.iter().flat_map(|folder| files(folder, ""));
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|path| path.is_file()).map(|path| path.strip_prefix(root()).unwrap().to_owned());
    nested.chain(top).map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The papers, each with the folder that its links start from.
fn papers() -> Vec<(String, String)> {
    let docs = files("docs", ".md").into_iter().map(|path| (read(path), "docs/".to_owned()));
    [(read("README.md"), String::new())].into_iter().chain(docs).collect()
}

/// Variables that a Dockerfile or a compose file gives to nodes and that are no settings: `ENV A=1 B=2`, `A: 1`.
fn check_environment(file: &str, known: &[&str]) -> Vec<String> {
    let is_name = |text: &str| text.len() > 1 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let words = file.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(|line| {
        let pairs = line.strip_prefix("ENV ");
        let (text, end) = pairs.map_or((line, ':'), |pairs| (pairs, '='));
        text.split(' ')
            .filter_map(move |word| if end == ':' { word.strip_suffix(end) } else { word.split(end).next() })
    });
    let named: Vec<&str> = words.filter(|word| is_name(word)).collect();
    assert!(!named.is_empty(), "no variable is given");
    named
        .into_iter()
        .filter(|name| !known.contains(name))
        .map(|name| format!("{name} is no setting"))
        .collect()
}

/// Whether one of the lines is this one, apart from blanks at its ends.
fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|other| other.trim() == line)
}

fn check_all(check: impl Fn(&Source) -> Vec<String>) {
    let wrong: Vec<String> = sources().iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn source(module: &str, text: &str) -> Source {
    Source { module: module.to_owned(), text: text.to_owned() }
}

// ---- tests ------------------------------------------------------------------------------------------------------------

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = r##"
        use crate::{store::{Entry, Key as K}, wire::*};
        use super::leader::{self, Core}; // use crate::http;
        /* crate::http */ const A: &str = "crate::http"; const B: &str = r#"a " crate::http"#;
        fn f<'a>(x: &'a str) -> char { let _ = '"'; let _ = '\''; crate::config::parse(x); 'c' }
        mod tests { use super::super::link; use super::*; mod deeper { use super::super::x::Y; } }
        fn g() { super::read::f(); tokio::time::sleep(1) }
    "##;
    let expected = [
        "crate::store::Entry",
        "crate::store::Key",
        "crate::wire",
        "crate::replication::quorum::leader::self",
        "crate::replication::quorum::leader::Core",
        "crate::config::parse",
        "crate::replication::quorum::link",
        "crate::replication::quorum::node",
        "crate::replication::quorum::node::x::Y",
        "crate::replication::quorum::read::f",
        "tokio::time::sleep",
    ];
    assert_eq!(paths(&source("replication::quorum::node", text)), expected);
}

#[test]
fn imports_go_down_the_floors() {
    check_all(check_floors);
    for (module, text) in [
        ("store", "use crate::wire::Epoch;"),
        ("store::entry", "use crate::address::PeerUrl;"),
        ("wire::client", "use crate::config::Limits;"),
        ("replication::quorum::link", "fn f() { crate::http::serve() }"),
        ("replication::quorum::link", "use super::super::super::http;"),
        ("replication", "use crate::{store::Entry, node::Node};"),
        ("http::peer", "use crate::cli::Cli;"),
        ("cli", "use crate::main::x;"),
        ("node", "#[cfg(test)] mod tests { use crate::cli::bench; }"),
    ] {
        assert_eq!(check_floors(&source(module, text)).len(), 1, "{module}: {text}");
    }
    for (module, text) in [
        ("replication::quorum::link", "use crate::replication::outcome::Found; use crate::store::Entry;"),
        ("replication", "pub use quorum::Quorum; use self::quorum::X;"),
        ("main", "use quorate::cli::Cli;"),
    ] {
        assert!(check_floors(&source(module, text)).is_empty(), "{module}: {text}");
    }
}

#[test]
fn some_modules_import_less_than_their_floor_allows() {
    check_all(check_narrow);
    for (module, text) in [
        ("cli::bench::drive", "use crate::store::Store;"),
        ("cli::bench", "use crate::node::Node;"),
        ("cli::client", "use super::cluster::LocalCluster;"),
        ("cli::status", "use crate::replication::outcome::Health;"),
        ("replication::outcome", "use super::quorum::Quorum;"),
        ("http", "use crate::observe::LatencyRecorder;"),
    ] {
        assert_eq!(check_narrow(&source(module, text)).len(), 1, "{module}: {text}");
    }
    let modules: BTreeSet<String> = sources().into_iter().map(|source| source.module).collect();
    for (module, _) in NARROW {
        assert!(modules.contains(*module), "the rule about {module} is about nothing");
    }
}

#[test]
fn each_foreign_crate_has_one_address() {
    check_all(check_homes);
    assert_eq!(check_homes(&source("replication::quorum::read", "use reqwest::Client;")).len(), 1);
    assert_eq!(check_homes(&source("cli", "fn f() { rustix::process::getpid(); }")).len(), 1);
    assert_eq!(check_homes(&source("wire", "#[derive(utoipa::ToSchema)] struct A;")).len(), 1);
    assert!(check_homes(&source("http::peer", "use axum::Router; // reqwest::Client")).is_empty());
    // A rule about a crate that nobody uses, or uses elsewhere, would watch nothing.
    let manifest = read("Cargo.toml");
    let sources = sources();
    for (guest, homes) in HOMES {
        assert!(has_dependency(&manifest, guest), "{guest} is no dependency");
        for home in *homes {
            let is_used = sources
                .iter()
                .filter(|source| is_within(&source.module, home))
                .any(|source| paths(source).iter().any(|path| path.split("::").next() == Some(guest)));
            assert!(is_used, "{guest} does not live in {home}");
        }
    }
    assert!(!has_dependency(&manifest, "openssl"));
}

fn has_dependency(manifest: &str, name: &str) -> bool {
    let dependencies = section(manifest, "[dependencies]");
    // Some crates have a hyphen in their names where the code has an underscore, some do not.
    let is_it = |line: &str| line.split([' ', '=']).next().is_some_and(|own| own.replace('-', "_") == name);
    dependencies.lines().any(is_it)
}

#[test]
fn examples_see_the_program_from_outside() {
    for path in files("examples", ".rs") {
        let wrong = check_outside(&source("example", &read(&path)));
        assert!(wrong.is_empty(), "{}: {}", path.display(), wrong.join(", "));
    }
    assert_eq!(check_outside(&source("example", "use quorate::{observe::A, store::Store};")).len(), 1);
}

#[test]
fn what_is_to_be_pure_is() {
    let wrong: Vec<String> =
        PURE.iter().flat_map(|name| check_pure(name, &read(Path::new("src").join(name)))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(check_pure("x", "fn f() { Instant::now(); } // await").len(), 1);
    assert!(check_pure("x", "fn f(now: Instant) {}").is_empty());
    assert_eq!(check_pure("x", "async fn f() { g().await }").len(), 2);
    assert!(check_pure("x", "fn f() {} #[cfg(test)] mod tests { async fn g() {} }").is_empty());
}

#[test]
fn the_drawing_in_lib_rs_is_this_table() {
    let house: BTreeSet<_> =
        HOUSE.iter().map(|room| (room.floor, room.path.to_owned(), room.guest.map(str::to_owned))).collect();
    let lib = read("src/lib.rs");
    assert_eq!(drawn(&lib), house);
    assert_ne!(drawn(&lib.replace("[reqwest]", "[ureq]")), house);
    assert_ne!(drawn(&lib.replace("//! 4  node", "//! 3  node")), house);
    // Every module of the crate has its room, and every room is a module.
    let declared: BTreeSet<String> =
        tokens(&lib).windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].clone()).collect();
    let top: BTreeSet<String> = HOUSE
        .iter()
        .map(|room| room.path.to_owned())
        .filter(|path| path != "main" && !path.contains("::"))
        .collect();
    assert_eq!(declared, top);
    for room in HOUSE.iter().filter(|room| room.guest.is_some()) {
        let guest = room.guest.unwrap().replace('-', "_");
        assert!(HOMES.iter().any(|(name, homes)| *name == guest && homes[0] == room.path), "{guest}");
    }
}

#[test]
fn the_readme_has_every_setting_with_its_default() {
    let settings: Vec<(&str, &str)> =
        SETTINGS.iter().map(|setting| (setting.name, setting.default)).collect();
    let wrong = check_settings(section(&read("README.md"), "## Settings"), &settings);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let table = "| name | default |\n|---|---|\n| `A` | `1` | x |\n| `B` | none | y |\n| `C` | `3` | z |\n";
    assert!(check_settings(table, &[("A", "1"), ("B", ""), ("C", "3")]).is_empty());
    assert_eq!(check_settings(table, &[("A", "2"), ("B", ""), ("C", "3")]).len(), 1, "another default");
    assert_eq!(check_settings(table, &[("A", "1"), ("B", "2"), ("C", "3")]).len(), 1, "a default left out");
    assert_eq!(check_settings(table, &[("A", "1"), ("B", "")]).len(), 1, "one that is no setting");
    assert_eq!(
        check_settings(table, &[("A", "1"), ("B", ""), ("C", "3"), ("D", "")]).len(),
        1,
        "one left out"
    );
}

#[test]
fn what_the_papers_name_is_there() {
    let (all, routes) = (all_files(), routes());
    let wrong: Vec<String> =
        papers().iter().flat_map(|(paper, from)| check_files(paper, from, &all)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let wrong = check_routes(&read("README.md"), &routes);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    for paper in ["see [x](docs/NO.md)", "see `src/no.rs`", "`no_such.rs`", "`tests/none/`"] {
        assert_eq!(check_files(paper, "", &all).len(), 1, "{paper}");
    }
    assert_eq!(check_files("[x](LICENSE)", "docs/", &all).len(), 1, "links start from the paper's folder");
    for paper in
        ["[x](docs/ARCHITECTURE.md#a)", "`src/http`", "`link.rs`", "`tests/sim/`", "[w](https://a.b/c)"]
    {
        assert!(check_files(paper, "", &all).is_empty(), "{paper}");
    }
    for paper in ["`GET /nothing`", "curl localhost:8000/nothing?x"] {
        assert_eq!(check_routes(paper, &routes).len(), 1, "{paper}");
    }
    assert!(check_routes("POST /write localhost:8001/read?key=k GET /openapi.json", &routes).is_empty());
}

#[test]
fn constants_and_tests_that_the_architecture_names_are_in_the_code() {
    let paper = read("docs/ARCHITECTURE.md");
    let mut known = defined("const");
    known.extend(SETTINGS.iter().map(|setting| setting.name.to_owned()));
    let wrong = check_constants(&paper, &known);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(check_constants("`NO_SUCH` and `MAX_TAIL`", &known).len(), 1);

    let tests = defined("fn");
    let wrong = check_tests(section(&paper, "## Rules, and the test that shows each"), &tests);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(check_tests("| 1 | rule | `no_such_test`, `what_is_to_be_pure_is` |", &tests).len(), 1);
}

#[test]
fn containers_are_given_settings_that_there_are() {
    let mut known: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(check_environment(&read("docker-compose.yml"), &known), Vec::<String>::new());
    known.extend(["QUORATE_URL", "CARGO_PROFILE_RELEASE_DEBUG"]);
    assert_eq!(check_environment(&read("Dockerfile"), &known), Vec::<String>::new());

    assert!(check_environment("ENV HOST=a PORT=1\n# NO: x", &known).is_empty());
    assert_eq!(check_environment("ENV HOST=a PROT=1", &known).len(), 1);
    assert_eq!(check_environment("environment: { <<: *node, NODE: follower1 }", &known).len(), 1);
    assert_eq!(check_environment("  PORT: 1\n  WRITE_QUORUMS: ${WRITE_QUORUM:-3}", &known).len(), 1);
}

#[test]
fn ci_runs_what_the_readme_says() {
    let (readme, check, ci) = (read("README.md"), read("scripts/check.sh"), read(".ci/run"));
    assert!(has_line(&readme, "cargo test") && has_line(&check, "step cargo test"));
    assert!(has_line(&readme, "cargo run --release -- bench"));
    assert!(ci.lines().any(|line| line.starts_with("scripts/check.sh")));
    assert!(ci.lines().any(|line| line.starts_with("cargo run --release -- bench ")));
    assert!(ci.lines().any(|line| line.trim_start().starts_with("scripts/docker_test.sh")));
    assert!(!has_line("# cargo test\ncargo test --lib", "cargo test"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let opens = |text: &str| text.trim_start().starts_with("//!");
    for path in ["src", "tests", "examples"].iter().flat_map(|folder| files(folder, ".rs")) {
        assert!(opens(&read(&path)), "{}", path.display());
    }
    assert!(!opens("use std::fs;\n//! late"));
}
