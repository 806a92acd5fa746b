//! Values that are written as one of a few words.

/// A value that a configuration, or a protocol, writes as a word.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// The words.
    const WORDS: &'static [&'static str];
    /// The values, in the order of the words.
    const VALUES: &'static [Self];

    /// The word for this value.
    fn word(self) -> &'static str {
        let mut pairs = Self::VALUES.iter().zip(Self::WORDS);
        pairs.find(|(value, _)| **value == self).map_or("", |(_, word)| word)
    }

    /// The value of a word.
    fn of_word(word: &str) -> Option<Self> {
        let mut pairs = Self::VALUES.iter().zip(Self::WORDS);
        pairs.find(|(_, known)| **known == word).map(|(value, _)| *value)
    }
}

/// Implements [`Word`]: `words!(Type { "word" => VALUE, ... })`.
macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),+ $(,)? }) => {
        impl $crate::config::words::Word for $type {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const VALUES: &'static [Self] = &[$($value),+];
        }
    };
}
pub(super) use words;
