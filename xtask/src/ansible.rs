//! `cargo xtask ansible`: checks the Ansible collection by ansible-lint and by the sanity tests of Ansible's authors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::{Error, Outcome, python, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask ansible

Checks the Ansible collection in dist/ansible_collections: ansible-lint with its strictest profile, then the sanity tests of
ansible-test, which Ansible's authors run on every collection (documentation of the modules against their code, pep8,
pylint, yamllint, imports and more). Both come from PyPI, into the target directory. `cargo xtask ci` runs ansible-lint only.

How the collection upgrades hosts is tested by `cargo xtask e2e rolled_out`, with the installed Ansible.";

/// ansible-lint takes any later ansible-core, whose sanity tests may find other things.
const LINT: &str = "ansible-lint==26.10.1 ansible-core==2.19.14";

/// ansible-test downloads a script that installs pip into its environments, from a host of Ansible's. This one, under
/// the same name, takes the pip of Python itself.
const BOOTSTRAP: (&str, &str) = (
    "get_pip_24_2.py",
    "import ensurepip\nimport os\nimport runpy\nimport sys\nsettings = dict(os.environ)\nensurepip.bootstrap()\n\
     os.environ.clear()\nos.environ.update(settings)  # ensurepip hides pip's settings\n\
     skipped = ('--no-setuptools', '--no-wheel')\n\
     sys.argv = ['pip', 'install'] + [one for one in sys.argv[1:] if one not in skipped]\n\
     runpy.run_module('pip', run_name='__main__')\n",
);

pub(crate) fn run(args: Args) -> Outcome {
    args.done()?;
    lint()?;
    sanity(&Tools::install()?)
}

/// ansible-lint alone.
///
/// # Errors
/// It found something, or PyPI is unreachable.
pub(crate) fn lint() -> Outcome {
    let tools = Tools::install()?;
    let mut lint = tools.command("ansible-lint");
    lint.args(["--offline", "--nocolor", "--profile", "production"]);
    step::run(lint.env("ANSIBLE_COLLECTIONS_PATH", repo::root().join("dist")).current_dir(collection()))
}

/// ansible-test, on the collection as it is installed: it writes into the directory.
fn sanity(tools: &Tools) -> Outcome {
    let installed = tools.folder.join("installed-collections");
    if installed.exists() {
        fs::remove_dir_all(&installed)?;
    }
    let galaxy = |args: &[&Path]| step::run(tools.command("ansible-galaxy").arg("collection").args(args));
    galaxy(&["build".as_ref(), &collection(), "--force".as_ref(), "--output-path".as_ref(), &tools.folder])?;
    let tarball = tools.folder.join(format!("psflip-service-{}.tar.gz", env!("CARGO_PKG_VERSION")));
    galaxy(&["install".as_ref(), &tarball, "--offline".as_ref(), "-p".as_ref(), &installed])?;
    let cache = tools.home().join(".ansible/test/cache");
    fs::create_dir_all(&cache)?;
    fs::write(cache.join(BOOTSTRAP.0), BOOTSTRAP.1)?;
    // ansible-test leaves out what Git ignores, as the whole target directory is. So here begins another repository.
    let service = installed.join("ansible_collections/psflip/service");
    step::run(Command::new("git").args(["init", "--quiet"]).current_dir(&service))?;
    let mut test = tools.command("ansible-test");
    test.args(["sanity", "--local", "--requirements", "--color", "no", "--python", &tools.python()?]);
    step::run(test.current_dir(service))
}

fn collection() -> PathBuf {
    repo::root().join("dist/ansible_collections/psflip/service")
}

/// Ansible's programs of PyPI, in an environment of their own.
struct Tools {
    folder: PathBuf,
}

impl Tools {
    fn install() -> Result<Self, Error> {
        let folder = repo::target_dir()?.join("ansible");
        python::install(&folder, LINT, "ansible-lint")?;
        Ok(Self { folder })
    }

    fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// The version of its Python, such as `3.11`. Others of this host may be incomplete.
    fn python(&self) -> Result<String, Error> {
        let version = ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"];
        let output = self.command("python").args(version).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A program with a home of its own. It finds the other ones in PATH.
    fn command(&self, program: &str) -> Command {
        let bin = self.folder.join("bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)));
        let mut command = Command::new(bin.join(program));
        command.env("PATH", path.unwrap_or_default()).env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
        command
    }
}
