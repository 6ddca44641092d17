//! The chart as people install it: rendered by helm, applied to an API server, and its programs started
//! with what it gives them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::{Cluster, Kubelet, Token};
use crate::process::{Process, binary, tool};

/// What was rendered of the chart.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Its objects.
    pub objects: Vec<Value>,
}

/// A program of the chart as its pod would run it, below a folder instead of `/`.
#[derive(Debug)]
pub struct Installed {
    /// Stands for `/` of its container.
    pub root: PathBuf,
    container: Value,
    volumes: Value,
}

/// Runs helm, which must not say more than its result.
///
/// # Errors
/// If it ends badly, with what it says.
pub fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    let home = tempfile::tempdir()?;
    let output = Command::new(tool("helm")?)
        .args(arguments)
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|it| (it, home.path())))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

impl Chart {
    /// Where it is.
    #[must_use]
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
    }

    /// Renders it for a release `arx` in a namespace with these values, in YAML.
    ///
    /// # Errors
    /// If helm or the schema of the values refuses.
    pub fn render(namespace: &str, values: &str) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), values)?;
        let (folder, file) = (Self::folder(), file.path().to_owned());
        let arguments = [
            "template",
            "arx",
            folder.to_str().context("text")?,
            "--namespace",
            namespace,
            "--values",
            file.to_str().context("text")?,
        ];
        Self::parse(&helm(&arguments)?)
    }

    /// Objects in YAML.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(yaml: &str) -> anyhow::Result<Self> {
        let mut objects = serde_saphyr::from_multiple::<Value>(yaml)?;
        objects.retain(|object| !object.is_null());
        Ok(Self { objects })
    }

    /// The object of this kind and name.
    ///
    /// # Errors
    /// If there is none.
    pub fn object(&self, kind: &str, name: &str) -> anyhow::Result<&Value> {
        let mut objects = self.objects.iter();
        let found = objects.find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.with_context(|| format!("no {kind} {name} in the chart"))
    }

    /// Applies all of it, as helm does, with every field checked by the API server.
    ///
    /// # Errors
    /// If that refuses an object.
    pub async fn apply(&self, cluster: &Cluster, dry_run: bool) -> anyhow::Result<()> {
        for object in &self.objects {
            apply(cluster, object, dry_run)
                .await
                .with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]))?;
        }
        Ok(())
    }

    /// The program of a StatefulSet, a DaemonSet or a Pod, about to run below a folder.
    ///
    /// # Errors
    /// If the object has no container.
    pub fn program(&self, kind: &str, name: &str, root: &Path) -> anyhow::Result<Installed> {
        let spec = &self.object(kind, name)?["spec"];
        let pod = match kind {
            "Pod" => spec,
            _ => &spec["template"]["spec"],
        };
        Ok(Installed {
            root: root.to_owned(),
            container: pod["containers"][0].clone(),
            volumes: pod["volumes"].clone(),
        })
    }
}

async fn apply(cluster: &Cluster, object: &Value, dry_run: bool) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&object["apiVersion"]);
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let resource = match text(&object["kind"]).as_str() {
        // Not what the rules of English have it.
        "MutatingAdmissionPolicy" => {
            ApiResource::from_gvk_with_plural(&kind, "mutatingadmissionpolicies")
        }
        _ => ApiResource::from_gvk(&kind),
    };
    let client = cluster.admin.clone();
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let parameters = PatchParams {
        dry_run,
        force: true,
        field_manager: Some("helm".to_owned()),
        field_validation: Some(ValidationDirective::Strict),
    };
    let name = text(&object["metadata"]["name"]);
    api.patch(&name, &parameters, &Patch::Apply(object)).await?;
    Ok(())
}

impl Installed {
    /// A path of the container, where it is here.
    #[must_use]
    pub fn path(&self, of_container: &str) -> PathBuf {
        self.root.join(of_container.trim_start_matches('/'))
    }

    /// Puts into place what a kubelet would mount, by what that kubelet sees: ConfigMaps, Secrets and
    /// tokens; and the directories that are empty at first.
    ///
    /// # Errors
    /// If anything is missing.
    pub async fn mount(&self, kubelet: &Kubelet, namespace: &str, pod: &str) -> anyhow::Result<()> {
        let mounts = self.container["volumeMounts"].as_array();
        for mount in mounts.context("mounts")? {
            let path = self.path(mount["mountPath"].as_str().context("a path")?);
            std::fs::create_dir_all(&path)?;
            let volumes = self.volumes.as_array().context("volumes")?;
            let Some(volume) = volumes.iter().find(|it| it["name"] == mount["name"]) else {
                // Of the claim's template.
                continue;
            };
            if let Some(name) = volume["configMap"]["name"].as_str() {
                kubelet.config_map(namespace, name, &path).await?;
            }
            if let Some(name) = volume["secret"]["secretName"].as_str() {
                let items = &volume["secret"]["items"][0];
                let (key, file) = (items["key"].as_str(), items["path"].as_str());
                let file = path.join(file.context("a path")?);
                let content = kubelet
                    .secret(namespace, name, key.context("a key")?)
                    .await?;
                arx_daemon::files::write_atomically(&file, &content, 0o400)?;
            }
            for source in volume["projected"]["sources"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let token = &source["serviceAccountToken"];
                let audience = token["audience"].as_str().context("an audience")?;
                let file = path.join(token["path"].as_str().context("a path")?);
                let token = Token {
                    namespace,
                    pod,
                    audience,
                };
                kubelet.project(token, &file).await?;
            }
        }
        Ok(())
    }

    /// Changes the configuration so that its paths are below the folder, and these texts are others:
    /// addresses of a pod and of services.
    ///
    /// # Errors
    /// If it is not there, or does not have one of them.
    pub fn configure(&self, changes: &[(&str, String)]) -> anyhow::Result<()> {
        let path = self.config()?;
        let root = self.root.to_str().context("text")?;
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(path, text.replace("= \"/", &format!("= \"{root}/")))?;
        self.change(changes)
    }

    /// Changes these texts of the configuration.
    ///
    /// # Errors
    /// If it does not have one of them.
    pub fn change(&self, changes: &[(&str, String)]) -> anyhow::Result<()> {
        let path = self.config()?;
        let mut text = std::fs::read_to_string(&path)?;
        for (from, to) in changes {
            ensure!(text.contains(from), "{} has no {from}", path.display());
            text = text.replace(from, to);
        }
        std::fs::write(path, text)?;
        Ok(())
    }

    fn config(&self) -> anyhow::Result<PathBuf> {
        let arguments = &self.container["args"];
        ensure!(arguments[0] == "--config", "{arguments}");
        Ok(self.path(arguments[1].as_str().context("a path")?))
    }

    /// Starts it with its own arguments on what looks to it like a machine that is called as the pod,
    /// as containers do.
    ///
    /// # Errors
    /// If it is none of our programs, or this process is not root.
    pub fn start(&self, pod: &str) -> anyhow::Result<Process> {
        let program = self.container["command"][0].as_str();
        let name = Path::new(program.context("a program")?).file_name();
        let name = name.and_then(|name| name.to_str()).context("a name")?;
        let text = |path: PathBuf| path.to_str().context("text").map(str::to_owned);
        let script = "hostname \"$0\" && exec \"$@\"";
        let mut arguments = ["--uts", "--", "sh", "-c", script, pod]
            .map(str::to_owned)
            .to_vec();
        arguments.push(text(binary(name)?)?);
        for argument in self.container["args"].as_array().context("arguments")? {
            let argument = argument.as_str().context("text")?;
            arguments.push(match argument.starts_with('/') {
                true => text(self.path(argument))?,
                false => argument.to_owned(),
            });
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Process::start(name, Path::new("unshare"), &arguments)
    }
}
