//! A table of the file, beside the table of its keys.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::meant;
use super::keys::{Absent, Key, Kind, Table};

/// A value in the tree.
pub(super) type Node<'t> = &'t Spanned<DeValue<'t>>;

/// Names, their places and their values, in the order of the file.
pub(super) type Entries<'t> = Vec<(&'t str, Range<usize>, Node<'t>)>;

/// The entries of a table.
pub(super) fn entries<'t>(table: &'t DeTable<'t>) -> Entries<'t> {
    let mut entries: Entries<'t> =
        table.iter().map(|(key, value)| (&**key.get_ref(), key.span(), value)).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

/// A table with fixed keys.
pub(super) struct Section<'t> {
    /// Its keys.
    pub(super) table: &'static Table,
    pub(super) entries: Entries<'t>,
    /// Its place; `None`: it is the file itself, or absent.
    pub(super) span: Option<Range<usize>>,
}

impl<'t> Section<'t> {
    /// The file itself.
    pub(super) fn file(table: &'static Table, root: &'t DeTable<'t>) -> Self {
        Self { table, entries: entries(root), span: None }
    }

    /// A table that the file does not have: all its keys have their defaults.
    pub(super) fn absent(table: &'static Table) -> Self {
        Self { table, entries: Vec::new(), span: None }
    }

    /// The value of a key in the file.
    pub(super) fn find(&self, name: &str) -> Option<Node<'t>> {
        self.entries.iter().find(|(other, ..)| *other == name).map(|(.., node)| *node)
    }

    /// What the table of keys says about this key.
    pub(super) fn key(&self, name: &str) -> &'static Key {
        /// In place of a key that the table lacks, which the tests of the table find.
        static NONE: Key = Key { name: "?", kind: Kind::Text, absent: Absent::Nothing };
        let key = self.table.key(name);
        debug_assert!(key.is_some(), "`{}` has no key `{name}`", self.table.title);
        key.unwrap_or(&NONE)
    }

    /// Whether the message about a misspelled key will suggest this key. Then a message that the key is
    /// missing is superfluous.
    pub(super) fn is_misspelled(&self, name: &str) -> bool {
        let allowed = self.table.names();
        // Comparing names takes time, and a table with so many keys has worse problems.
        self.entries
            .iter()
            .take(100)
            .any(|(other, ..)| !allowed.contains(other) && meant(other, &allowed).as_deref() == Some(name))
    }
}
