//! The main job: live TCP connections of real clients move between two instances.
//!
//! [`Options`] say what; [`run`] builds a [`lab`] per scenario (two VMs and a client namespace on
//! one switch), runs the scenario ([`download`], [`echo`], [`drain`]) with a [`mover`] that
//! commands the moves and a [`live`] line that shows them, and judges it by what the client
//! received and what crossed its wire ([`report`]).

pub mod client;
mod download;
mod drain;
mod echo;
pub mod lab;
mod live;
mod mover;
pub mod options;
pub mod report;
pub mod upgrade;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result};

pub use options::{Options, Scenario};
pub use report::{Report, ScenarioReport};

use crate::build::Service;
use crate::progress::Progress;
use crate::switch::pcap::Capture;
use crate::vm::Accelerator;
use crate::{build, content};
use client::Client;
use lab::{Lab, LabSpec};

/// Images by service name.
struct Images {
    http: Option<PathBuf>,
    echo: Option<PathBuf>,
}

/// Runs the demo and prints what happens. An error means that the demo could not be run; whether
/// all promises were kept is in the report.
pub fn run(options: &Options) -> Result<Report> {
    options.check()?;
    // What cannot be written is found before anything takes long.
    let json = options
        .json
        .as_deref()
        .map(report::create_json)
        .transpose()?;
    let capture = options.pcap.as_deref().map(Capture::create).transpose()?;
    println!("Godwit: live connections that move between machines\n");
    let scenarios = options.scenarios();
    let images = build_images(options, &scenarios)?;
    let accelerator = options.machine.machine().map(|_| Accelerator::best());
    let client = Client::find(options.client)?;
    let sizes = options.sizes();
    println!(
        "  {}, one address {}, client: {}",
        options.describe_instances(accelerator),
        options.family().virtual_ip(),
        client.name(),
    );
    if let Client::Harness(why) = &client {
        println!("  the client is played by a stack in the harness ({why})");
    }
    println!("  links: {}", options.describe_links());
    if let Some(asked) = options.raised_size() {
        println!(
            "  {} KiB leave no time for {} moves: the download takes {} KiB",
            asked >> 10,
            options.moves,
            sizes.of(Scenario::Download) >> 10
        );
    }
    println!();

    let mut report = Report::new(options, &client, accelerator);
    for (number, scenario) in scenarios.into_iter().enumerate() {
        let size = sizes.of(scenario);
        let expected = digest_in_background(size);
        let (service, image) = match scenario {
            Scenario::Echo => (Service::Echo, images.echo.clone()),
            Scenario::Download | Scenario::Drain => (Service::Http, images.http.clone()),
        };
        let spec = LabSpec {
            service,
            image: image.context("the image was not built")?,
            machine: options.machine,
            nic: options.nic,
            memory: options.memory,
            family: options.family(),
            impairment: options.impairment(),
            // Not the same losses at the same moments of each scenario.
            seed: options.seed.wrapping_mul(1000).wrapping_add(number as u64),
            client: client.clone(),
            accelerator: accelerator.unwrap_or(Accelerator::Tcg),
            verbose: options.verbose,
        };
        let lab = Lab::start(&spec, capture.as_ref())
            .with_context(|| format!("the machines for scenario {scenario} do not come up"))?;
        let ran = match scenario {
            Scenario::Download => download::run(lab, size, options.moves, &expected),
            Scenario::Echo => echo::run(lab, size, options.moves, &expected),
            Scenario::Drain => drain::run(lab, size, &expected),
        };
        let ran = ran.with_context(|| format!("scenario {scenario} was not completed"))?;
        report.add(scenario, ran);
    }
    if let Some(capture) = capture {
        capture.finish()?;
    }
    report.print();
    if let Some(file) = json {
        report.write_json(file)?;
    }
    Ok(report)
}

fn build_images(options: &Options, scenarios: &[Scenario]) -> Result<Images> {
    let progress = Progress::start("building the images");
    let image = |service| match options.machine.machine() {
        Some(_) => build::image(service),
        None => build::hosted(),
    };
    let http = scenarios.iter().any(|scenario| *scenario != Scenario::Echo);
    let echo = scenarios.contains(&Scenario::Echo);
    let images = Images {
        http: http.then(|| image(Service::Http)).transpose()?,
        echo: echo.then(|| image(Service::Echo)).transpose()?,
    };
    progress.finish();
    Ok(images)
}

/// Computes the expected digest while the machines boot.
fn digest_in_background(size: u64) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let _ = sender.send(content::digest(size));
    });
    receiver
}
