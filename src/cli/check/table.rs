//! What Wherry needs of a kernel: the rows of `kernel.txt`, which `board/kernel/update` makes.

const TABLE: &str = include_str!("kernel.txt");

/// How much depends on a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Without it, no container runs.
    Required,
    /// Without it, a limit, a figure or a convenience is lost.
    Wanted,
    /// Nothing of today's is lost without it, or it is for what runs in containers.
    Optional,
}

impl Level {
    /// As in JSON, and in the names of the fragments.
    pub fn word(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Wanted => "wanted",
            Self::Optional => "optional",
        }
    }
}

/// One fact that symbols of the kernel's configuration decide.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// How much depends on it.
    pub level: Level,
    /// The fact's name.
    pub name: &'static str,
    symbols: &'static str,
    switch: &'static str,
    /// What Wherry does without it.
    pub loss: &'static str,
}

impl Row {
    fn parse(line: &'static str) -> Option<Self> {
        let mut fields = line.split('|');
        let level = match fields.next()? {
            "r" => Level::Required,
            "w" => Level::Wanted,
            _ => Level::Optional,
        };
        Some(Self { level, name: fields.next()?, symbols: fields.next()?, switch: fields.next()?, loss: fields.next()? })
    }

    /// The symbols without `CONFIG_`, and whether each must be set.
    pub fn symbols(&self) -> impl Iterator<Item = (&'static str, bool)> + use<> {
        self.symbols.split(' ').map(|s| s.strip_prefix('!').map_or((s, true), |s| (s, false)))
    }

    /// As it stands in a kernel's configuration: `CONFIG_A CONFIG_B`, `CONFIG_C=n`.
    pub fn kconfig(&self) -> String {
        self.prefixed("CONFIG_")
    }

    /// What adds it to an OpenWrt device: a package, symbols of the build's configuration, or words where neither exists.
    pub fn openwrt(&self) -> String {
        match self.switch {
            "KERNEL" => self.prefixed("CONFIG_KERNEL_"),
            "" => "in every kernel".into(),
            "none" => "make kernel_menuconfig".into(),
            package => package.into(),
        }
    }

    /// The fragment of the Yocto layer that has it.
    pub fn yocto(&self) -> String {
        format!("wherry-{}.cfg", self.level.word())
    }

    fn prefixed(&self, prefix: &str) -> String {
        let words: Vec<String> = self.symbols().map(|(s, set)| format!("{prefix}{s}{}", if set { "" } else { "=n" })).collect();
        words.join(" ")
    }
}

/// All rows.
pub fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter_map(Row::parse)
}
