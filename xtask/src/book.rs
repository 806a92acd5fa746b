//! `cargo xtask book`: the repository's pages as a static site.
//!
//! The same links must work in the repository and on the site. So the site is built from a copy with the
//! repository's layout, in which each directory that a page links to gets an index.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::{Error, Outcome, python, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask book

Builds a site from README.md, docs/ and the other pages in target/book/site. The generator is Zensical from PyPI, which is
installed into target/book/tools once. Fails if the target of a link or an anchor doesn't exist.";

/// The successor of Material for MkDocs, by the same authors. It installs from a wheel, builds in a second,
/// and checks links and anchors. mdBook takes minutes to compile, and Material itself ends in 2027. The
/// version is exact, so that two builds of one commit are the same.
const GENERATOR: &str = "zensical==0.0.73";

/// The pages of the site, by section, in reading order.
const PAGES: &[(&str, &[(&str, &str)])] = &[
    ("Start", &[("psflip", "README.md"), ("All pages, glossary", "docs/README.md")]),
    (
        "Quick starts",
        &[
            ("PHP-FPM behind nginx", "docs/quickstart/php-fpm.md"),
            ("gunicorn", "docs/quickstart/gunicorn.md"),
            ("uvicorn", "docs/quickstart/uvicorn.md"),
            ("Node", "docs/quickstart/node.md"),
            ("Puma", "docs/quickstart/puma.md"),
            ("Java", "docs/quickstart/java.md"),
            ("Rust with axum, Go", "docs/quickstart/axum.md"),
            ("Container", "docs/quickstart/docker.md"),
            ("systemd", "docs/quickstart/systemd.md"),
        ],
    ),
    (
        "Use",
        &[
            ("Proxy", "docs/proxy.md"),
            ("Traffic without the proxy", "docs/traffic.md"),
            ("systemd", "docs/systemd.md"),
            ("Containers and Kubernetes", "docs/containers.md"),
            ("Other supervisors", "docs/managers.md"),
            ("Configuration", "docs/configuration.md"),
            ("Coming from another way to restart", "docs/coming-from.md"),
            ("Migrating from the Go version", "docs/migrating.md"),
            ("Differences from the Go version", "docs/differences-from-upstream.md"),
        ],
    ),
    (
        "Operate",
        &[
            ("Deploying safely", "docs/deploying.md"),
            ("Upgrading many hosts", "docs/fleet.md"),
            ("Ansible collection", "dist/ansible_collections/psflip/service/README.md"),
            ("Rehearsing upgrades", "docs/rehearse.md"),
            ("The field, side by side", "docs/field.md"),
            ("Testing your app's upgrades", "docs/testing-your-app.md"),
            ("Operations", "docs/operations.md"),
            ("Troubleshooting", "docs/troubleshooting.md"),
            ("Frequently asked questions", "docs/faq.md"),
            ("Failures", "docs/failures.md"),
            ("Control socket", "docs/control.md"),
        ],
    ),
    (
        "Internals",
        &[
            ("Contract", "docs/contract.md"),
            ("Architecture", "docs/architecture.md"),
            ("Hand-over", "docs/handover.md"),
            ("Traps", "docs/traps.md"),
            ("Decisions", "docs/decisions/README.md"),
            ("0001 A generation is two processes", "docs/decisions/0001-two-processes-per-generation.md"),
            (
                "0002 The old psflip starts the new one",
                "docs/decisions/0002-the-old-psflip-starts-the-new-one.md",
            ),
            ("0003 One message commits an upgrade", "docs/decisions/0003-one-message-commits.md"),
            ("0004 The anchor is the default", "docs/decisions/0004-the-anchor-is-the-default.md"),
            (
                "0005 Every child has a process group of its own",
                "docs/decisions/0005-process-groups-of-their-own.md",
            ),
            ("0006 NOTIFY_SOCKET has an abstract name", "docs/decisions/0006-an-abstract-notify-socket.md"),
            (
                "0007 What SIGKILL does not terminate is left behind",
                "docs/decisions/0007-what-sigkill-does-not-end.md",
            ),
            ("0008 The decision is a pure function", "docs/decisions/0008-a-pure-decision.md"),
            ("0009 Failures are made on purpose", "docs/decisions/0009-failures-on-purpose.md"),
            (
                "0010 Pages stay where they are, and a generator copies them",
                "docs/decisions/0010-pages-stay-where-they-are.md",
            ),
            ("0011 A proxy runs in a process beside psflip", "docs/decisions/0011-a-relay-beside-psflip.md"),
            (
                "0012 Output goes through a process of its own",
                "docs/decisions/0012-output-through-a-process-of-its-own.md",
            ),
        ],
    ),
    (
        "Take part",
        &[
            ("Contributing", "CONTRIBUTING.md"),
            ("Security", "SECURITY.md"),
            ("Changelog", "CHANGELOG.md"),
            ("testkit", "testkit/README.md"),
            ("pytest-psflip", "testkit/python/README.md"),
            ("Fixtures", "fixtures/README.md"),
        ],
    ),
];

pub(crate) fn run(args: Args) -> Outcome {
    args.done()?;
    let folder = repo::target_dir()?.join("book");
    let site = make(&folder)?;
    println!("the site: {}", site.join("index.html").display());
    Ok(())
}

/// Builds the site, and returns its folder.
pub(crate) fn make(folder: &Path) -> Result<PathBuf, Error> {
    let pages = folder.join("pages");
    if pages.exists() {
        fs::remove_dir_all(&pages)?;
    }
    stage(&repo::root(), &pages)?;
    fs::write(folder.join("mkdocs.yml"), configuration())?;
    let generator = python::install(&folder.join("tools"), GENERATOR, "zensical")?;
    let build = ["build", "--config-file", "mkdocs.yml", "--clean", "--strict"];
    step::run(Command::new(generator).args(build).current_dir(folder))?;
    Ok(folder.join("site"))
}

/// The generator's configuration.
fn configuration() -> String {
    let mut nav = String::new();
    for (section, pages) in PAGES {
        let _ = writeln!(nav, "  - {section}:");
        for (title, page) in *pages {
            let _ = writeln!(nav, "      - \"{title}\": {page}");
        }
    }
    format!(
        "site_name: psflip\nsite_description: Zero-downtime restarts for any Linux service, in any language\n\
         docs_dir: pages\nsite_dir: site\nuse_directory_urls: false\n\
         theme:\n  font: false\n  features: [navigation.sections, navigation.top, toc.follow, content.code.copy]\n  palette:\n\
         {SCHEMES}\
         markdown_extensions: [tables, admonition, md_in_html, pymdownx.highlight, pymdownx.superfences]\n\
         plugins: [search]\n\
         validation:\n  nav: {{omitted_files: ignore}}\n  links: {{not_found: warn, anchors: warn, unrecognized_links: warn}}\n\
         nav:\n{nav}"
    )
}

/// Light or dark, as the reader's system is set.
const SCHEMES: &str = "    - {media: \"(prefers-color-scheme: light)\", scheme: default, primary: teal}\n    \
    - {media: \"(prefers-color-scheme: dark)\", scheme: slate, primary: teal}\n";

/// Copies the pages, and the files that they link to.
fn stage(root: &Path, pages: &Path) -> Outcome {
    let mut linked = BTreeSet::new();
    for (_, page) in PAGES.iter().flat_map(|(_, pages)| *pages) {
        let text = fs::read_to_string(root.join(page)).map_err(|error| format!("{page}: {error}"))?;
        let text = with_indexes(&text, Path::new(page), root, &mut linked);
        write(&pages.join(page), &text)?;
    }
    for path in linked {
        let source = root.join(&path);
        if source.is_dir() {
            write(&pages.join(&path).join("README.md"), &index(&path, &source)?)?;
            for entry in fs::read_dir(&source)? {
                let entry = entry?;
                if entry.file_type()?.is_file() && entry.file_name() != "README.md" {
                    copy(&entry.path(), &pages.join(&path).join(entry.file_name()))?;
                }
            }
        } else if source.extension().is_none_or(|extension| extension != "md") {
            copy(&source, &pages.join(&path))?;
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Outcome {
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    Ok(fs::write(file, text)?)
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(())
}

/// The text, in which links to a directory lead to its index. Adds everything that it links to, as paths from
/// the root.
fn with_indexes(text: &str, page: &Path, root: &Path, linked: &mut BTreeSet<PathBuf>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else { break };
        let (file, anchor) =
            target.split_once('#').map_or((target, ""), |(file, _)| (file, &target[file.len()..]));
        let is_path = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
        let path = from_root(page, file);
        let index = if is_path && root.join(&path).is_dir() { "/README.md" } else { "" };
        if is_path {
            linked.insert(path);
        }
        let _ = write!(out, "{before}]({}{index}{anchor})", file.trim_end_matches('/'));
        rest = after;
    }
    out + rest
}

/// The target of a page's link, as a path from the root.
fn from_root(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().map(Path::to_owned).unwrap_or_default();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// A page that lists the files of a directory, each with its first comment.
fn index(path: &Path, folder: &Path) -> Result<String, Error> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    let mut out = format!("# {}\n\n", path.display());
    for name in names.iter().filter(|name| *name != "README.md") {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default(); // a binary file has no comment
        let about = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        let about = about.strip_prefix("# ").or_else(|| about.strip_prefix("// ")).unwrap_or_default();
        let _ = writeln!(out, "- [`{name}`]({name}) {about}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_directories_point_to_their_index_and_others_stay() {
        let mut linked = BTreeSet::new();
        let text =
            "[a](../examples/servers) [b](traffic.md#x) [c](https://x.org/y) [d](#here) [e](../README.md)";
        let got = with_indexes(text, Path::new("docs/page.md"), &repo::root(), &mut linked);
        let wanted = "[a](../examples/servers/README.md) [b](traffic.md#x) [c](https://x.org/y) [d](#here) [e](../README.md)";
        assert_eq!(got, wanted);
        let paths: Vec<_> = linked.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["README.md", "docs/traffic.md", "examples/servers"]);
    }

    #[test]
    fn every_page_of_docs_is_in_the_book() {
        for entry in fs::read_dir(repo::root().join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("docs/{name}");
            let is_there = PAGES.iter().flat_map(|(_, pages)| *pages).any(|(_, page)| *page == path);
            assert!(is_there || !name.ends_with(".md"), "{path} is in no section of PAGES");
        }
    }
}
