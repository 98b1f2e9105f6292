//! What a guest boots from: a kernel, and a file system in memory with the product, etcd and a database cluster.

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::User;
use tempfile::TempDir;

/// Made by `make setup-guest`.
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/guest/root");

pub const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
const LIB_DIR: &str = "/usr/lib/postgresql/15/lib";

/// The first program: the kernel's file systems, the device for the user of the database, then a shell for the test.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/shm
mount -t tmpfs shm /dev/shm
chmod 1777 /tmp /dev/shm
ip link set lo up
insmod /modules/watchdog.ko
insmod /modules/softdog.ko
mkdir /run/keddah
chown postgres:postgres /run/keddah /dev/watchdog
export PATH=/bin:/usr/bin:/usr/lib/postgresql/15/bin RUNTIME_DIRECTORY=/run/keddah
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
stty raw -echo
echo ready
while read -r line; do
  eval \"$line\" < /dev/null
  printf '\\nend %s\\n' $?
done
";

pub struct Image {
    folder: TempDir,
}

impl Image {
    /// Makes one; `config` is the agent's file.
    pub fn make(config: &str) -> Image {
        assert!(nix::unistd::geteuid().is_root(), "a database cluster is made for its own user: run as root");
        assert!(Path::new(PACKAGES).exists(), "{PACKAGES} is missing: `make setup-guest` makes it");
        let folder = tempfile::Builder::new().prefix("keddah-guest-").tempdir_in("/var/tmp").unwrap();
        let image = Image { folder };
        for folder in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "usr/bin"] {
            std::fs::create_dir_all(image.inside(folder)).unwrap();
        }
        image.put("init", INIT);
        image.succeeds("chmod", &["755", &image.inside("init").display().to_string()]);
        image.put("agent.yml", config);
        image.put("etc/hosts", "127.0.0.1 localhost\n");
        image.link("/etc/passwd");
        image.link("/etc/group");
        image.link_to("bin/busybox", &Path::new(PACKAGES).join("bin/busybox"));
        image.link_to("usr/bin/keddah", Path::new(env!("CARGO_BIN_EXE_keddah")));
        let modules = only_entry(&Path::new(PACKAGES).join("lib/modules")).join("kernel/drivers/watchdog");
        for module in ["watchdog.ko", "softdog.ko"] {
            image.link_to(&format!("modules/{module}"), &modules.join(module));
        }
        image.link("/usr/share/postgresql/15");
        image.link("/usr/share/zoneinfo");
        image.programs();
        image.data();
        image.pack();
        image
    }

    fn programs(&self) {
        let libraries =
            ["plpgsql.so", "dict_snowball.so", "libpqwalreceiver.so"].map(|name| format!("{LIB_DIR}/{name}"));
        let programs = ["postgres", "pg_controldata", "psql"].map(|name| format!("{BIN_DIR}/{name}"));
        let etcd = "/usr/bin/etcd".to_owned();
        for file in programs.iter().chain(&libraries).chain([&etcd]) {
            self.link(file);
            let needed = Command::new("ldd").arg(file).output().unwrap();
            for path in String::from_utf8_lossy(&needed.stdout)
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
            {
                self.link(path);
            }
        }
    }

    /// Makes the database cluster here, where it is quick.
    fn data(&self) {
        let user = User::from_name("postgres").unwrap().expect("the package makes the user postgres");
        let data = self.inside("var/lib/postgresql/data");
        std::fs::create_dir_all(&data).unwrap();
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let initdb = format!("{BIN_DIR}/initdb");
        let data = data.display().to_string();
        let arguments = ["--auth=trust", "--no-sync", "--username=postgres", "--locale=C", "--wal-segsize=1"];
        self.succeeds(
            "setpriv",
            &[
                &["--reuid=postgres", "--regid=postgres", "--clear-groups", &initdb, "-D", &data],
                &arguments[..],
            ]
            .concat(),
        );
    }

    fn pack(&self) {
        let script = "cd \"$1\" && find -L . | \"$2\" cpio -o -L -H newc > \"$3\" 2> /dev/null";
        let (root, busybox) = (self.inside("").display().to_string(), format!("{PACKAGES}/bin/busybox"));
        self.succeeds("sh", &["-c", script, "pack", &root, &busybox, &self.initrd().display().to_string()]);
    }

    pub fn initrd(&self) -> PathBuf {
        self.folder.path().join("initrd")
    }

    pub fn console(&self) -> PathBuf {
        self.folder.path().join("console")
    }

    /// Prepares the emulator: what it prints goes into the console's file, and its standard streams are the guest's shell.
    pub fn emulator(&self) -> Command {
        let packages = Path::new(PACKAGES);
        let unpacked = packages.join("usr/bin/qemu-system-x86_64");
        let mut command = if unpacked.exists() {
            let mut command = Command::new(&unpacked);
            let libraries = ["lib", "usr/lib"].map(|folder| packages.join(folder).join("x86_64-linux-gnu"));
            command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
            for folder in ["qemu", "seabios"] {
                command.arg("-L").arg(packages.join("usr/share").join(folder));
            }
            command
        } else {
            Command::new("qemu-system-x86_64")
        };
        let boot = std::fs::read_dir(packages.join("boot")).unwrap();
        let mut files = boot.flatten().map(|entry| entry.path().display().to_string());
        let kernel = files.find(|path| path.contains("/vmlinuz-")).expect("a kernel");
        // Half of the memory is the disk, on which a server wants room for some WAL.
        command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1536"]);
        // A reset ends the emulator.
        command.args(["-no-reboot", "-nodefaults", "-display", "none"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(self.initrd());
        command.args(["-append", "console=ttyS0 loglevel=4"]);
        command.arg("-serial").arg(format!("file:{}", self.console().display())).args(["-serial", "stdio"]);
        command
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::write(self.inside(path), text).unwrap();
    }

    /// Has a file or a folder of this machine at the same place in the guest.
    fn link(&self, path: &str) {
        self.link_to(path.trim_start_matches('/'), Path::new(path));
    }

    fn link_to(&self, inside: &str, target: &Path) {
        let place = self.inside(inside);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        if !place.exists() {
            symlink(target, place).unwrap();
        }
    }

    fn succeeds(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).current_dir(self.folder.path()).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn only_entry(folder: &Path) -> PathBuf {
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}
