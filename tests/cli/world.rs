//! A folder with a small, healthy deployment, and the program run in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tempfile::TempDir;

const HOSTS: &str = "\
all:
  children:
    etcd:
      hosts:
        etcd1: {ansible_host: 10.0.0.11}
        etcd2: {ansible_host: 10.0.0.12}
        etcd3: {ansible_host: 10.0.0.13}
    postgres:
      hosts:
        db1: {ansible_host: 10.0.0.21}
        db2: {ansible_host: 10.0.0.22}
        db3: {ansible_host: 10.0.0.23}
    haproxy:
      hosts:
        lb1: {ansible_host: 10.0.0.31}
        lb2: {ansible_host: 10.0.0.32}
";

const CLUSTER: &str = "\
name: orders
postgres:
  version: 17
agent:
  synchronous_mode: on
";

const SECRETS: &str = "\
keddah_superuser_password: one
keddah_replication_password: two
keddah_rewind_password: three
keddah_restapi_password: four
keddah_haproxy_stats_password: five
";

const SITE: &str = "\
- name: etcd
  hosts: etcd
  become: true
  roles:
    - etcd
";

const TASKS: &str = "\
- name: folder
  file:
    path: \"{{ etcd_folder }}\"
    state: directory
";

/// What the program did.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub struct World {
    dir: TempDir,
}

impl World {
    pub fn healthy() -> World {
        let world = World { dir: tempfile::tempdir().unwrap() };
        world
            .file("inventory/hosts.yml", HOSTS)
            .file("inventory/cluster.yml", CLUSTER)
            .file("inventory/group_vars/all/secrets.yml", SECRETS)
            .file("playbooks/site.yml", SITE)
            .file("roles/etcd/tasks/main.yml", TASKS)
            .file("roles/etcd/defaults/main.yml", "etcd_folder: /etc/etcd\n")
    }

    /// Writes a file, readable by its owner alone.
    pub fn file(self, path: &str, text: &str) -> World {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    /// Replaces a part of a file that is there.
    pub fn edit(self, path: &str, from: &str, to: &str) -> World {
        let text = fs::read_to_string(self.dir.path().join(path)).unwrap();
        assert!(text.contains(from), "{path} has no `{from}`");
        self.file(path, &text.replace(from, to))
    }

    pub fn mode(self, path: &str, mode: u32) -> World {
        fs::set_permissions(self.dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn run(&self, args: &[&str]) -> Done {
        self.run_as("keddah", args)
    }

    /// Runs the program under another name.
    pub fn run_as(&self, name: &str, args: &[&str]) -> Done {
        let output = Command::new(env!("CARGO_BIN_EXE_keddah"))
            .arg0(name)
            .args(args)
            .env_remove("PATRONICTL_CONFIG_FILE")
            .current_dir(self.dir.path())
            .env_remove("KEDDAH_INVENTORY")
            .env_remove("KEDDAH_ROLES_PATH")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Done { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}
