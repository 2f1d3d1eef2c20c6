//! `image …`

use fireclaw_core::{
    error::Result,
    id::ImageName,
    report::StepTime,
    state::{InstanceRecord, record_defaults},
};
use fireclaw_host::image::{self, BuildRequest, ImportRequest};

use crate::{
    app::{App, own_program},
    args::{ImageBuildArgs, ImageCommand, Output},
    clock, fleet,
    ui::{self, Progress, seconds},
};

/// Runs an image command.
pub fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Build(args) => build(&App::system(args.output.quiet)?, &args),
        ImageCommand::List(json) => list(&App::system(false)?, json.json),
        ImageCommand::Inspect { name, json } => inspect(&App::system(false)?, &name, json.json),
        ImageCommand::Remove { name, output } => remove(&App::system(output.quiet)?, &name, output),
        ImageCommand::Import { name, kernel, rootfs, initrd, output } => {
            let app = App::system(output.quiet)?;
            app.need_root()?;
            let request = ImportRequest { name: name.parse()?, kernel, rootfs, initrd };
            let manifest =
                image::import(&app.settings.layout, &request, &clock::now_rfc3339(), &app.interrupt)?;
            say(&app, output, &manifest, &format!("`{name}` is imported"))
        }
    }
}

fn build(app: &App, args: &ImageBuildArgs) -> Result<()> {
    app.need_root()?;
    let mut request = BuildRequest::new(args.name.parse()?, own_program()?);
    request.suite.clone_from(&args.suite);
    request.mirror.clone_from(&args.mirror);
    request.docker = !args.no_docker;
    request.browser = !args.no_browser;
    if let Some(version) = &args.openclaw_version {
        request.openclaw_version.clone_from(version);
    }
    let mut progress = app.ui.progress();
    let (manifest, times) = carry_out(app, &request, &mut progress)?;
    let total: u64 = times.iter().map(|time| time.ms).sum();
    say(app, args.output, &manifest, &format!("image `{}` is built in {}", args.name, seconds(total)))
}

/// The image that a setup lacks, with the defaults of `image build`.
pub fn build_for_setup(app: &App, name: &ImageName, progress: &mut Progress) -> Result<Vec<StepTime>> {
    let request = BuildRequest::new(name.clone(), own_program()?);
    carry_out(app, &request, progress).map(|(_, times)| times)
}

fn carry_out(
    app: &App,
    request: &BuildRequest,
    progress: &mut Progress,
) -> Result<(image::Manifest, Vec<StepTime>)> {
    let mut shown = Shown { progress, times: Vec::new() };
    let manifest = image::build(
        app.host.exec.as_ref(),
        &app.settings.layout,
        request,
        &clock::now_rfc3339(),
        &|name| std::env::var(name).ok(),
        &mut shown,
    )?;
    Ok((manifest, shown.times))
}

/// Shows the builder's steps as ours.
struct Shown<'a> {
    progress: &'a mut Progress,
    times: Vec<StepTime>,
}

impl image::Progress for Shown<'_> {
    fn begin(&mut self, step: &str) {
        self.progress.begin(&format!("image: {step}"));
    }

    fn detail(&mut self, line: &str) {
        self.progress.detail(line);
    }

    fn end(&mut self, step: &str, ms: u64, ok: bool) {
        self.progress.end(ms, ok);
        self.times.push(StepTime { name: format!("image: {step}"), ms });
    }
}

fn list(app: &App, json: bool) -> Result<()> {
    let images = image::list(&app.settings.layout)?;
    if json {
        return app.ui.json(&images);
    }
    if images.is_empty() {
        return app.ui.result("no images; `fireclaw image build` makes one\n");
    }
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    app.ui.result(&ui::table(
        &["NAME", "SYSTEM", "OPENCLAW", "SIZE", "BUILT", "ERROR"],
        images.iter().map(|image| {
            vec![
                image.name.clone(),
                dash(&image.system),
                dash(&image.openclaw),
                format!("{} MiB", image.allocated_bytes >> 20),
                dash(&image.built_at),
                dash(&image.error),
            ]
        }),
    ))
}

fn inspect(app: &App, name: &str, json: bool) -> Result<()> {
    let manifest = image::inspect(&app.settings.layout, &name.parse()?)?;
    if json { app.ui.json(&manifest) } else { app.ui.result(&manifest.to_string()) }
}

/// Removes an image and says who was made from it. Instances keep what they run from.
pub fn remove(app: &App, name: &str, output: Output) -> Result<()> {
    app.need_root()?;
    let name: ImageName = name.parse()?;
    let made: Vec<InstanceRecord> = app
        .store()
        .records()?
        .into_iter()
        .filter(|record| record.image == name.as_str() && record.image != record_defaults::CUSTOM_IMAGE)
        .collect();
    let ids = |only: &dyn Fn(&InstanceRecord) -> bool| -> Vec<String> {
        made.iter().filter(|record| only(record)).map(|record| record.id.to_string()).collect()
    };
    let made_from_it = ids(&|_| true);
    // While they are there its room is not free.
    let run_from_it = ids(&|record| fleet::runs_from_image(app, record));
    image::remove(&app.settings.layout, &name)?;
    if output.json {
        return app.ui.json(&serde_json::json!({
            "name": name.as_str(), "removed": true, "made_from_it": made_from_it, "run_from_it": run_from_it,
        }));
    }
    app.ui.note(&format!("image `{name}` is removed"));
    if !made_from_it.is_empty() {
        app.ui.note(&format!("instances made from it keep their disks: {}", made_from_it.join(", ")));
    }
    if !run_from_it.is_empty() {
        app.ui.note(&format!(
            "its root filesystem stays on the disk as long as they run from it: {}",
            run_from_it.join(", ")
        ));
    }
    Ok(())
}

fn say(app: &App, output: Output, manifest: &image::Manifest, text: &str) -> Result<()> {
    if output.json {
        return app.ui.json(manifest);
    }
    app.ui.note(text);
    Ok(())
}
