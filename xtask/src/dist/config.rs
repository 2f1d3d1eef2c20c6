//! The configuration file as it is installed: every key with its default, all of it commented out. Pure.

use fireclaw_core::{
    error::Result,
    spec::{Settings, settings::Shown},
};

/// What each key is for. A key that is not here is shown without a word; a test keeps that from happening.
const ABOUT: &[(&str, &str)] = &[
    ("state_root", "Records, tokens and keys of the instances."),
    ("fc_root", "Disks, logs and sockets of the instances."),
    ("base_port", "The first instance gets the next port above this one, on 127.0.0.1."),
    ("bridge_name", "The bridge of the VMs, its address and their network (/16 to /29)."),
    ("bridge_addr", ""),
    ("subnet_cidr", ""),
    ("ssh_key_path", "The key that guests are reached with. Made when it is missing."),
    ("base_images_dir", "Base images."),
    ("disk_size", "The size of a new instance's disk."),
    ("api_sock", "The VMM's API socket of an instance; empty for FC_ROOT/ID/firecracker.socket."),
    ("openclaw_image_default", "OpenClaw's container image, for the Docker runtime."),
    ("vmm", "auto, firecracker or qemu."),
    ("supervisor", "auto, systemd or embedded."),
    (
        "memory_max",
        "What a VM and its VMM may have at most, as with all limits by its unit or a control group: 3G, auto or none.",
    ),
    ("cpu_quota", "Percent of one CPU, auto (the VM's CPUs and a half) or none."),
    ("tasks_max", "Threads and processes, auto (512) or none."),
    ("io_weight", "The VM's share of a busy disk, 1 to 10000, where others have 100."),
    ("io_read_max", "Bytes a second from the disk of FC_ROOT, such as 100M."),
    ("io_write_max", "Bytes a second to it."),
    ("dns", "Resolvers in the guests; empty for those of the host."),
    ("provider_anthropic", "HOST:PORT in place of a model provider's own, for the key broker."),
    ("provider_openai", ""),
    ("provider_minimax", ""),
    ("provider_ca", "A file with a certificate authority more (PEM) that the key broker trusts."),
    ("insecure_registries", "Registries (HOST:PORT) from which guests pull images without TLS."),
];

/// The file's text.
pub fn render() -> Result<String> {
    let mut text = String::from(
        "# fireclaw's settings. A flag wins over the environment, the environment over this file, this file over the\n\
         # defaults, which are shown here. `fireclaw doctor` prints each value in force and where it came from.\n",
    );
    for Shown { name, value, .. } in Settings::resolve(&|_| None, None)?.shown {
        let key = name.to_ascii_lowercase();
        if let Some((_, about)) = ABOUT.iter().find(|(known, _)| *known == key)
            && !about.is_empty()
        {
            text.push_str(&format!("\n# {about}\n"));
        }
        let shown = match (key.as_str(), value.as_str()) {
            ("dns" | "insecure_registries", _) => "[]".to_owned(),
            ("base_port", number) => number.to_owned(),
            (_, text) => format!("\"{text}\""),
        };
        text.push_str(&format!("#{key} = {shown}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_set_and_every_line_could_be() {
        let text = render().unwrap();
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')));
        let defaults = Settings::resolve(&|_| None, None).unwrap();
        let as_installed = Settings::resolve(&|_| None, Some(&text)).unwrap();
        assert_eq!(as_installed, defaults);
        // A key's line begins with `#key`, a sentence with `# `.
        let opened: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        let opened = Settings::resolve(&|_| None, Some(&opened)).unwrap();
        let values = |settings: &Settings| -> Vec<_> {
            settings.shown.iter().map(|shown| (shown.name, shown.value.clone())).collect()
        };
        assert_eq!(values(&opened), values(&defaults));
        assert!(opened.shown.iter().all(|shown| shown.origin == fireclaw_core::spec::Origin::ConfigFile));
        for shown in &defaults.shown {
            let key = shown.name.to_ascii_lowercase();
            assert!(ABOUT.iter().any(|(known, _)| *known == key), "{key} is not described");
        }
        assert_eq!(ABOUT.len(), defaults.shown.len());
    }
}
