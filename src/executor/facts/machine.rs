//! System and hardware: distribution, kernel, processors, memory, what manages services and packages.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use crate::executor::facts::Facts;
use crate::expr::Value;
use crate::sys::names;

/// `ID` of os-release, Ansible's name of the distribution, Ansible's family.
const DISTRIBUTIONS: &[(&str, &str, &str)] = &[
    ("debian", "Debian", "Debian"),
    ("ubuntu", "Ubuntu", "Debian"),
    ("raspbian", "Debian", "Debian"),
    ("linuxmint", "Linux Mint", "Debian"),
    ("rhel", "RedHat", "RedHat"),
    ("centos", "CentOS", "RedHat"),
    ("rocky", "Rocky", "RedHat"),
    ("almalinux", "AlmaLinux", "RedHat"),
    ("ol", "OracleLinux", "RedHat"),
    ("fedora", "Fedora", "RedHat"),
    ("amzn", "Amazon", "RedHat"),
    ("sles", "SLES", "Suse"),
    ("opensuse-leap", "openSUSE Leap", "Suse"),
    ("opensuse-tumbleweed", "openSUSE Tumbleweed", "Suse"),
    ("alpine", "Alpine", "Alpine"),
    ("arch", "Archlinux", "Archlinux"),
];

/// A program, and the package manager that it shows; the first that is there counts.
const PACKAGE_MANAGERS: &[(&str, &str)] = &[
    ("usr/bin/apt-get", "apt"),
    ("usr/bin/dnf5", "dnf5"),
    ("usr/bin/dnf", "dnf"),
    ("usr/bin/yum", "yum"),
    ("usr/bin/zypper", "zypper"),
    ("sbin/apk", "apk"),
    ("usr/bin/pacman", "pacman"),
];

pub(crate) fn add(facts: &mut Facts, root: &Path) {
    add_names(facts);
    add_distribution(facts, root);
    add_processors(facts, &read(root, "proc/cpuinfo"));
    add_memory(facts, &read(root, "proc/meminfo"));
    let (kind, role) = virtualization(root);
    facts.put("virtualization_type", kind);
    facts.put("virtualization_role", role);
    facts.put("service_mgr", service_manager(root));
    facts.put("pkg_mgr", package_manager(root));
    facts.put("product_name", dmi(root, "product_name"));
    facts.put("system_vendor", dmi(root, "sys_vendor"));
    facts.put("machine_id", read(root, "etc/machine-id").trim());
    let uptime = read(root, "proc/uptime");
    let seconds = uptime.split('.').next().and_then(|text| text.parse::<i64>().ok());
    facts.put("uptime_seconds", seconds.unwrap_or(0));
    let selinux = if root.join("sys/fs/selinux/enforce").exists() { "enabled" } else { "disabled" };
    facts.put("selinux", Value::from([("status", selinux)]));
    let apparmor = if root.join("sys/kernel/security/apparmor").exists() { "enabled" } else { "disabled" };
    facts.put("apparmor", Value::from([("status", apparmor)]));
}

fn read(root: &Path, path: &str) -> String {
    // What a host does not have or hides is left out of its facts, as Ansible does.
    std::fs::read(root.join(path))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn dmi(root: &Path, name: &str) -> String {
    let text = read(root, &format!("sys/class/dmi/id/{name}"));
    if text.trim().is_empty() { "NA".to_owned() } else { text.trim().to_owned() }
}

fn add_names(facts: &mut Facts) {
    let Ok(uname) = nix::sys::utsname::uname() else { return };
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let node = text(uname.nodename());
    let short = node.split('.').next().unwrap_or_default().to_owned();
    let full = if node.contains('.') { node.clone() } else { names::qualified(&node) };
    let domain = full.split_once('.').map(|(_, domain)| domain.to_owned()).unwrap_or_default();
    let machine = text(uname.machine());
    let bits = if machine.contains("64") || machine == "s390x" { "64" } else { "32" };
    facts.put("nodename", node);
    facts.put("hostname", short);
    facts.put("fqdn", full);
    facts.put("domain", domain);
    facts.put("system", text(uname.sysname()));
    facts.put("kernel", text(uname.release()));
    facts.put("kernel_version", text(uname.version()));
    // Ansible calls all of 32-bit x86 by one name.
    let architecture = if matches!(machine.as_str(), "i486" | "i586" | "i686") { "i386" } else { &machine };
    facts.put("architecture", architecture);
    facts.put("userspace_bits", bits);
    facts.put("userspace_architecture", architecture);
    facts.put("machine", machine);
}

fn add_distribution(facts: &mut Facts, root: &Path) {
    let mut release = read(root, "etc/os-release");
    if release.is_empty() {
        release = read(root, "usr/lib/os-release");
    }
    let fields = os_release(&release);
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let id = field("ID");
    let like = field("ID_LIKE");
    let row = DISTRIBUTIONS.iter().find(|(known, _, _)| *known == id);
    let family = row.map(|(_, _, family)| (*family).to_owned()).or_else(|| {
        let relative = |name: &&str| DISTRIBUTIONS.iter().find(|(known, _, _)| known == name);
        like.split_whitespace().find_map(|name| relative(&name)).map(|(_, _, family)| (*family).to_owned())
    });
    let name = row.map_or_else(|| field("NAME"), |(_, name, _)| (*name).to_owned());
    let mut version = field("VERSION_ID");
    // os-release of Debian has no point release; this file has.
    let exact = read(root, "etc/debian_version");
    if id == "debian" && exact.trim().starts_with(|c: char| c.is_ascii_digit()) {
        exact.trim().clone_into(&mut version);
    }
    if version.is_empty() {
        version = "n/a".to_owned();
    }
    let mut parts = version.split('.');
    let major = parts.next().unwrap_or_default().to_owned();
    if let Some(minor) = parts.next() {
        facts.put("distribution_minor_version", minor);
    }
    let codename = [field("VERSION_CODENAME"), in_parentheses(&field("VERSION"))];
    let codename = codename.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| "NA".to_owned());
    facts.put("os_family", family.unwrap_or_else(|| name.clone()));
    facts.put("distribution", name);
    facts.put("distribution_version", version);
    facts.put("distribution_major_version", major);
    facts.put("distribution_release", codename);
    facts.put("distribution_file_path", "/etc/os-release");
    facts.put("distribution_file_parsed", true);
}

fn in_parentheses(text: &str) -> String {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inner.map(|(inner, _)| inner.to_owned()).unwrap_or_default()
}

fn os_release(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

fn add_processors(facts: &mut Facts, cpuinfo: &str) {
    let mut list = Vec::new();
    let mut sockets = BTreeSet::new();
    let (mut logical, mut cores, mut siblings) = (0_i64, 0_i64, 0_i64);
    for line in cpuinfo.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.trim() {
            "processor" => {
                logical += 1;
                list.push(Value::str(value));
            }
            "vendor_id" | "model name" => list.push(Value::str(value)),
            "physical id" => {
                sockets.insert(value.to_owned());
            }
            "cpu cores" => cores = value.parse().unwrap_or(0),
            "siblings" => siblings = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    // Kernels of ARM and of some small virtual machines name no sockets: then each is a processor of its own.
    let (count, cores, threads) = if sockets.is_empty() || cores == 0 {
        (logical.max(1), 1, 1)
    } else {
        (i64::try_from(sockets.len()).unwrap_or(1), cores, (siblings / cores).max(1))
    };
    facts.put("processor", list);
    facts.put("processor_count", count);
    facts.put("processor_cores", cores);
    facts.put("processor_threads_per_core", threads);
    facts.put("processor_vcpus", count * cores * threads);
    let usable = std::thread::available_parallelism().ok().and_then(|n| i64::try_from(n.get()).ok());
    facts.put("processor_nproc", usable.unwrap_or(logical.max(1)));
}

fn add_memory(facts: &mut Facts, meminfo: &str) {
    let field = |wanted: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kib| kib / 1024)
    };
    let (total, free, cached) = (field("MemTotal"), field("MemFree"), field("Cached") + field("Buffers"));
    let (swap, swap_free) = (field("SwapTotal"), field("SwapFree"));
    facts.put("memtotal_mb", total);
    facts.put("memfree_mb", free);
    facts.put("swaptotal_mb", swap);
    facts.put("swapfree_mb", swap_free);
    let dict = |pairs: [(&str, i64); 3]| Value::from(pairs.map(|(name, value)| (name, Value::from(value))));
    let memory = Value::from([
        ("real", dict([("total", total), ("free", free), ("used", total - free)])),
        ("nocache", dict([("free", free + cached), ("used", total - free - cached), ("total", total)])),
        ("swap", dict([("total", swap), ("free", swap_free), ("used", swap - swap_free)])),
    ]);
    facts.put("memory_mb", memory);
}

fn virtualization(root: &Path) -> (String, &'static str) {
    let container = read(root, "run/systemd/container");
    if !container.trim().is_empty() {
        return (container.trim().to_owned(), "guest");
    }
    for (file, kind) in [(".dockerenv", "docker"), ("run/.containerenv", "podman")] {
        if root.join(file).exists() {
            return (kind.to_owned(), "guest");
        }
    }
    // Only root may read it; others go by the files above.
    let environ = read(root, "proc/1/environ");
    if let Some(kind) = environ.split('\0').find_map(|entry| entry.strip_prefix("container=")) {
        return (kind.to_owned(), "guest");
    }
    let (product, vendor) = (dmi(root, "product_name"), dmi(root, "sys_vendor"));
    let known = [
        (product.contains("VirtualBox"), "virtualbox"),
        (vendor.contains("VMware"), "VMware"),
        (vendor.contains("Xen") || root.join("proc/xen").exists(), "xen"),
        (vendor.contains("Microsoft") && product.contains("Virtual"), "VirtualPC"),
        (vendor.contains("OpenStack") || product.contains("OpenStack"), "openstack"),
        (
            product.contains("KVM")
                || vendor.contains("QEMU")
                || vendor.contains("Google")
                || vendor.contains("Amazon"),
            "kvm",
        ),
    ];
    if let Some((_, kind)) = known.into_iter().find(|(found, _)| *found) {
        return (kind.to_owned(), "guest");
    }
    let cpuinfo = read(root, "proc/cpuinfo");
    if cpuinfo
        .lines()
        .any(|line| line.starts_with("flags") && line.split_whitespace().any(|f| f == "hypervisor"))
    {
        return ("kvm".to_owned(), "guest");
    }
    if read(root, "proc/modules").lines().any(|line| line.starts_with("kvm ")) {
        return ("kvm".to_owned(), "host");
    }
    ("NA".to_owned(), "NA")
}

fn service_manager(root: &Path) -> String {
    if root.join("run/systemd/system").exists() {
        return "systemd".to_owned();
    }
    let first = read(root, "proc/1/comm");
    match first.trim() {
        "" => "service".to_owned(),
        "init" if root.join("sbin/openrc").exists() => "openrc".to_owned(),
        "init" | "sh" | "bash" => "sysvinit".to_owned(),
        other => other.to_owned(),
    }
}

fn package_manager(root: &Path) -> &'static str {
    let found = PACKAGE_MANAGERS.iter().find(|(program, _)| root.join(program).exists());
    found.map_or("unknown", |(_, manager)| manager)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Dict;

    fn facts_of(files: &[(&str, &str)], add: impl Fn(&mut Facts, &Path)) -> Dict {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            crate::sys::files::replace(&path, text.as_bytes(), crate::sys::files::Attributes::default())
                .unwrap();
        }
        let mut facts = Facts::default();
        add(&mut facts, root.path());
        facts.0
    }

    fn text(facts: &Dict, name: &str) -> String {
        facts.get(name).and_then(|value| value.as_str()).unwrap_or_else(|| panic!("no {name}")).to_owned()
    }

    #[test]
    fn debian_has_its_point_release_and_codename() {
        let os = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let facts = facts_of(&[("etc/os-release", os), ("etc/debian_version", "12.11\n")], add_distribution);
        assert_eq!(text(&facts, "distribution"), "Debian");
        assert_eq!(text(&facts, "distribution_version"), "12.11");
        assert_eq!(text(&facts, "distribution_major_version"), "12");
        assert_eq!(text(&facts, "distribution_release"), "bookworm");
        assert_eq!(text(&facts, "os_family"), "Debian");
    }

    #[test]
    fn rebuilds_of_red_hat_are_of_its_family_even_when_unknown() {
        let rocky = "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\nVERSION=\"9.4 (Blue Onyx)\"\n";
        let facts = facts_of(&[("etc/os-release", rocky)], add_distribution);
        assert_eq!(text(&facts, "distribution"), "Rocky");
        assert_eq!(text(&facts, "distribution_release"), "Blue Onyx");
        assert_eq!(text(&facts, "os_family"), "RedHat");

        let other = "NAME=Mine\nID=mine\nID_LIKE=\"centos\"\nVERSION_ID=1\n";
        let facts = facts_of(&[("etc/os-release", other)], add_distribution);
        assert_eq!(text(&facts, "distribution"), "Mine");
        assert_eq!(text(&facts, "os_family"), "RedHat");
    }

    #[test]
    fn processors_are_counted_by_socket_core_and_thread() {
        let one = |id: u32, socket: u32| {
            format!(
                "processor\t: {id}\nvendor_id : X\nmodel name : Y\nphysical id\t: {socket}\nsiblings : 4\ncpu cores : 2\n\n"
            )
        };
        let cpuinfo: String = (0..8).map(|id| one(id, id / 4)).collect();
        let mut facts = Facts::default();
        add_processors(&mut facts, &cpuinfo);
        let number = |name: &str| facts.0.get(name).unwrap().as_int().unwrap();
        assert_eq!((number("processor_count"), number("processor_cores")), (2, 2));
        assert_eq!((number("processor_threads_per_core"), number("processor_vcpus")), (2, 8));
    }

    #[test]
    fn a_container_is_a_guest_of_its_manager() {
        let facts = facts_of(&[("run/systemd/container", "systemd-nspawn\n")], |facts, root| {
            let (kind, role) = virtualization(root);
            facts.put("kind", kind);
            facts.put("role", role);
        });
        assert_eq!((text(&facts, "kind"), text(&facts, "role")), ("systemd-nspawn".into(), "guest".into()));
    }

    #[test]
    fn memory_is_counted_in_whole_mebibytes() {
        let mut facts = Facts::default();
        add_memory(&mut facts, "MemTotal:       24684092 kB\nMemFree: 1024 kB\n");
        assert_eq!(facts.0.get("memtotal_mb").unwrap().as_int(), Some(24105));
        assert_eq!(facts.0.get("memfree_mb").unwrap().as_int(), Some(1));
    }
}
