"""The mistakes that `test_mistakes.py` makes, and the page of them: `python -m tests.cli.mistakes > docs/mistakes.md`.

Nothing here imports torch, so that a process may make the quick ones and look whether t2x did.
"""

# ruff: noqa: E501 (one mistake a line)

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from t2x_core.cli.main import main

VALID = """\
# Learns shapes
tasks:
  text-to-image:
    data:
      shapes: {size: 16, val_count: 6}
backbone: {width: 32, depth: 1, heads: 2, patch_size: 4}
codec: {name: identity}
text_encoders: {bytes: {dim: 16, depth: 1, heads: 2}}
diffusion: {sampler: {steps: 2}}
trainer:
  max_steps: 2
  global_batch: 4
  accelerator: cpu
  threads: 1
logging: {samples: 2, score_samples: 2, final_score_samples: 2, checkpoint_every: 2}
"""
FOREIGN = b'\x45\0\0\0\0\0\0\0{"unet.conv.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}\0\0\0\0'
"""A safetensors file with a weight of another model."""
RUN = "runs/mine/first"
"""Folder of the run that stands in the folder of each mistake."""


@dataclass(frozen=True)
class Mistake:
    """What somebody did in a folder that holds the recipe above as mine.yaml, and a run of it; and what t2x says."""

    what: str
    command: str
    """Behind `t2x`."""
    says: str
    """Behind `t2x: `."""
    edit: tuple[str, str] | None = None
    """A piece of mine.yaml, and what stands there instead."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Files that are written before."""
    slow: bool = False
    """Whether it takes torch to find it."""


# fmt: off
SECTIONS: dict[str, list[Mistake]] = {
    "The recipe": [
        Mistake("a misspelt name", "fit quikstart", 'command line: no recipe "quikstart": there is no such file, and none of that name ships with t2x; did you mean "quickstart"?'),
        Mistake("a misspelt file", "fit myne.yaml", 'command line: no recipe "myne.yaml": there is no such file, and none of that name ships with t2x; did you mean "mine.yaml"?'),
        Mistake("a folder", "fit .", 'command line: "." is a folder, not a recipe; write mine.yaml'),
        Mistake("the folder of a run", "fit runs/mine/first", 'command line: "runs/mine/first" is a folder, not a recipe; write runs/mine/first/recipe.yaml'),
        Mistake("a checkpoint", "fit runs/mine/first/checkpoints/step_00000002", 'command line: "runs/mine/first/checkpoints/step_00000002" is a folder, not a recipe'),
        Mistake("an image", "fit x.png", "x.png: is not a text file in UTF-8", files={"x.png": b'\x89PNG\r\n\x1a\n\x00\xff'}),
        Mistake("an empty file", "fit x.yaml", "x.yaml: is empty; a recipe is a mapping of keys to values", files={"x.yaml": ""}),
        Mistake("nothing but comments", "fit x.yaml", "x.yaml: is empty; a recipe is a mapping of keys to values", files={"x.yaml": "# soon\n"}),
        Mistake("a list", "fit x.yaml", "x.yaml: is not a recipe: a mapping of keys to values is needed, not a list", files={"x.yaml": "- quickstart\n"}),
        Mistake("no space behind the colon", "fit x.yaml", 'x.yaml: is not a recipe: a mapping of keys to values is needed, not "seed:1"', files={"x.yaml": "seed:1\n"}),
        Mistake("a tab", "fit mine.yaml", "mine.yaml:11: broken YAML: a tab; indent with spaces", edit=("  max_steps: 2", "\tmax_steps: 2")),
        Mistake("a brace that is not closed", "fit mine.yaml", "mine.yaml:15: broken YAML while parsing a flow mapping: expected ',' or '}', but got '<stream end>'", edit=("checkpoint_every: 2}", "checkpoint_every: 2")),
        Mistake("two colons", "fit mine.yaml", 'mine.yaml:11: broken YAML: a second ": " on this line, or wrong indentation; text that holds ": " needs quotes', edit=("  max_steps: 2", "  max_steps: 2: 3")),
        Mistake("wrong indentation", "fit mine.yaml", 'mine.yaml:12: broken YAML: a second ": " on this line, or wrong indentation; text that holds ": " needs quotes', edit=("  global_batch: 4", "   global_batch: 4")),
        Mistake("a key twice", "fit mine.yaml", 'mine.yaml:12: the key "max_steps" is written twice, first on line 11', edit=("  global_batch: 4", "  max_steps: 4")),
        Mistake("a number as key", "fit mine.yaml", "mine.yaml:3: the key 1 must be text; put it in quotes", edit=("  text-to-image:", "  1:")),
        Mistake("a tag of Python's", "fit mine.yaml", 'mine.yaml:11: the tag "tag:yaml.org,2002:python/name:os.system" is not allowed in a recipe', edit=("  max_steps: 2", "  max_steps: !!python/name:os.system 2")),
        Mistake("two documents", "fit mine.yaml", 'mine.yaml:7: broken YAML: a second document ("---"); a recipe is one document', edit=("codec: ", "---\ncodec: ")),
        Mistake("a tag of YAML's", "fit mine.yaml", 'mine.yaml:11: the tag "tag:yaml.org,2002:int" is not allowed in a recipe', edit=("  max_steps: 2", "  max_steps: !!int abc")),
        Mistake("brackets inside brackets", "fit mine.yaml", "mine.yaml:11: more than 40 mappings and lists inside each other", edit=("  max_steps: 2", "  max_steps: " + "[" * 60)),
        Mistake("aliases that double", "fit x.yaml", "x.yaml:11: aliases that stand for more than 5000 values", files={"x.yaml": "base: mine.yaml\na0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 20))}),
        Mistake("a file that is too large", "fit x.yaml", "x.yaml: is larger than 128 KiB, which no recipe is", files={"x.yaml": VALID + "#" * 131072}),
        Mistake("a device", "fit /dev/zero", 'command line: "/dev/zero" is not a recipe: it is no file'),
        Mistake("a name that is too long", "fit " + "x" * 256, f'command line: "{"x" * 40}…{"x" * 19}" is no path: it is too long; a name has at most 255 bytes, a path 4095'),
        Mistake("the home of nobody", "fit ~nosuchuser/x.yaml", 'command line: there is no user "nosuchuser" whose home ~nosuchuser could be'),
    ],
    "`base`": [
        Mistake("a base that is not there", "fit x.yaml", 'x.yaml:1: no base "yours.yaml": there is no such file beside this one, and none of that name ships with t2x', files={"x.yaml": "base: yours.yaml\n"}),
        Mistake("a misspelt base", "fit x.yaml", 'x.yaml:3: no base "quikstart": there is no such file beside this one, and none of that name ships with t2x; did you mean "quickstart"?', files={"x.yaml": "base:\n- _base_/cpu\n- quikstart\n"}),
        Mistake("bases that need each other", "fit x.yaml", "y.yaml:1: base goes in a circle: x.yaml → y.yaml → x.yaml", files={"x.yaml": "base: y.yaml\n", "y.yaml": "base: x.yaml\n"}),
        Mistake("a mistake in a base", "fit x.yaml", 'y.yaml:3: unknown key "trainer.thread"; did you mean "threads"?', files={"x.yaml": "base: [mine.yaml, y.yaml]\n", "y.yaml": "\ntrainer:\n  thread: 2\n"}),
        Mistake("a number as base", "fit x.yaml", "x.yaml:1: base must be a recipe or a list of recipes, not 3", files={"x.yaml": "base: 3\n"}),
    ],
    "Keys": [
        Mistake("a misspelt block", "fit mine.yaml", 'mine.yaml:6: unknown key "bakbone"; did you mean "backbone"?', edit=("backbone: ", "bakbone: ")),
        Mistake("a misspelt key", "fit mine.yaml", 'mine.yaml:11: unknown key "trainer.max_stepps"; did you mean "max_steps"?', edit=("  max_steps: 2", "  max_stepps: 2")),
        Mistake("a misspelt key of a plugin", "fit mine.yaml", 'mine.yaml:5: unknown key "tasks.text-to-image.data.shapes.sise"; did you mean "size"?', edit=("size: 16", "sise: 16")),
        Mistake("a misspelt key of a text encoder", "fit mine.yaml", 'mine.yaml:8: unknown key "text_encoders.bytes.dimm"; did you mean "dim"?', edit=("bytes: {dim", "bytes: {dimm")),
        Mistake("a key without its block", "fit mine.yaml lr=1e-3", 'command line: unknown key "lr"; did you mean "optimizer.lr"?'),
        Mistake("a key of another block", "fit mine.yaml trainer.seed=3", 'command line: unknown key "trainer.seed"; known here: max_steps, global_batch, tokens_per_step, batch_multiple, accumulation, devices, num_nodes, accelerator, strategy, shards, precision, gradient_checkpointing, compile, workers, stall_minutes, threads'),
        Mistake("something missing", "fit mine.yaml", "mine.yaml:10: trainer.max_steps is missing (Length of the training, in optimizer steps.)", edit=("  max_steps: 2\n", "")),
        Mistake("no size of the network", "fit mine.yaml", "mine.yaml:6: backbone: set a preset (S, B, L, XL, H), or width, depth and heads; not set: width, depth, heads", edit=("width: 32, depth: 1, heads: 2, ", "")),
        Mistake("no codec", "fit mine.yaml", "mine.yaml: codec is missing (Pixels to latents and back.)", edit=("codec: {name: identity}\n", "")),
        Mistake("a codec without a name", "fit mine.yaml", "mine.yaml:7: codec.name is missing (Registered name of the component.)", edit=("codec: {name: identity}", "codec: {}")),
        Mistake("no task", "fit mine.yaml", "mine.yaml:2: tasks has no entry that is not null; for its defaults write text-to-image: {}", edit=("  text-to-image:\n    data:\n      shapes: {size: 16, val_count: 6}", "  text-to-image:")),
        Mistake("an unknown task", "fit mine.yaml", 'mine.yaml:3: no installed plugin brings the task "text-to-imag"; did you mean "text-to-image"?', edit=("text-to-image", "text-to-imag")),
        Mistake("an unknown codec", "fit mine.yaml", 'mine.yaml:7: no installed plugin brings the codec "vae"; there are: autoencoder, identity', edit=("identity", "vae")),
        Mistake("a text encoder as codec", "fit mine.yaml codec.name=bytes", 'command line: "bytes" is a text encoder, not a codec; there are: autoencoder, identity'),
    ],
    "Values": [
        Mistake("a number in quotes", "fit mine.yaml", 'mine.yaml:11: trainer.max_steps must be an integer, not "2"; remove the quotes', edit=("max_steps: 2", 'max_steps: "2"')),
        Mistake("a number with a point", "fit mine.yaml trainer.max_steps=1e4", "command line: trainer.max_steps must be an integer, not 10000.0; write 10000"),
        Mistake("yes for true", "fit mine.yaml backbone.qk_norm=yes", 'command line: backbone.qk_norm must be true or false, not "yes"'),
        Mistake("a word for a number", "fit mine.yaml optimizer.lr=fast", 'command line: optimizer.lr must be a number, not "fast"'),
        Mistake("a list for a number", "fit mine.yaml backbone.patch_size=[4,4]", "command line: backbone.patch_size must be an integer, not [4, 4]"),
        Mistake("a list that is too short", "fit mine.yaml backbone.window=[2,2]", 'command line: backbone.window must be a list of 3 integers or "auto", not [2, 2]'),
        Mistake("a value for a block", "fit mine.yaml", 'mine.yaml:7: codec must be a mapping, not "identity"', edit=("codec: {name: identity}", "codec: identity")),
        Mistake("a misspelt word", "fit mine.yaml backbone.attention=prxoy", 'command line: backbone.attention must be "proxy", "fused" or "dense", not "prxoy"; did you mean "proxy"?'),
        Mistake("too little", "fit mine.yaml trainer.max_steps=0", "command line: trainer.max_steps must be at least 1, not 0"),
        Mistake("too much", "fit mine.yaml ema.decay=1", "command line: ema.decay must be below 1, not 1"),
        Mistake("too little for a plugin", "fit mine.yaml", "mine.yaml:5: tasks.text-to-image.data.shapes.size must be at least 16, not 8", edit=("size: 16", "size: 8")),
        Mistake("infinity", "fit mine.yaml optimizer.lr=.inf", "command line: optimizer.lr must be finite, not Infinity"),
        Mistake("a number that float32 does not hold", "fit mine.yaml optimizer.eps=1e-60", "command line: optimizer.eps is out of the range of float32, 1.2e-38 to 3.4e+38: 1e-60"),
        Mistake("a share that float32 rounds to 1", "fit mine.yaml ema.decay=0.99999999", "command line: ema.decay must be below 1, and 0.99999999 is 1 in float32"),
        Mistake("an integer of more than 64 bits", "fit mine.yaml seed=18446744073709551616", "command line: seed must fit into 64 bits, which 18446744073709551616 does not"),
        Mistake("a number of 500 digits", "fit mine.yaml seed=" + "9" * 500, "command line: seed must be an integer, and what is written is a number of 500 characters"),
        Mistake("a hexadecimal number", "fit mine.yaml seed=0x10", 'command line: seed must be an integer, not "0x10"'),
        Mistake("an empty list where nothing is no choice", "fit mine.yaml tasks.text-to-image.data.shapes.backgrounds=[]", "command line: tasks.text-to-image.data.shapes.backgrounds must have at least one entry"),
        Mistake("half of a character", "fit mine.yaml", 'mine.yaml:7: codec.name is not text in Unicode: "\\ud83d" in it is half of a character', edit=("{name: identity}", '{name: "\\ud83d"}')),
    ],
    "What does not go together": [
        Mistake("a batch that the devices do not divide", "fit mine.yaml trainer.devices=3", "mine.yaml:12: trainer.global_batch: 4 does not divide into devices 3 × num_nodes 1 × accumulation 1 = 3 equal parts; 3 and 6 do"),
        Mistake("a size that the patches do not divide", "fit mine.yaml", "mine.yaml:5: tasks.text-to-image.data.shapes.size: 18 pixels do not divide into tokens of 4 (codec 1 × backbone.patch_size 4); 16 and 20 do", edit=("size: 16", "size: 18")),
        Mistake("a patch that does not divide the size", "fit mine.yaml backbone.patch_size=3", "mine.yaml:5: tasks.text-to-image.data.shapes.size: 16 pixels do not divide into tokens of 3 (codec 1 × backbone.patch_size 3); 15 and 18 do"),
        Mistake("a window larger than the image", "fit mine.yaml backbone.window=[1,8,8]", "command line: backbone.window: 8 × 8 tokens are more than there are: the largest sample has 4 × 4; write auto, or a smaller window"),
        Mistake("a width that the heads do not divide", "fit mine.yaml backbone.heads=3", "mine.yaml:6: backbone.width: 32 is not divisible by 3 heads; 48 and 96 are"),
        Mistake("a width that is no multiple of 16", "fit mine.yaml backbone.width=40", "command line: backbone.width: 40 is not divisible by 16; 32 and 48 are"),
        Mistake("the same in a preset", "fit mine.yaml backbone.preset=S backbone.heads=5 backbone.width=null", "command line: backbone.width: 384 is not divisible by 5 heads; 320 and 400 are", slow=True),
        Mistake("the same in a text encoder", "fit mine.yaml text_encoders.bytes.heads=3", "mine.yaml:8: text_encoders.bytes.dim: 16 is no multiple of the 3 heads"),
        Mistake("a task that reads text, and no text encoder", "fit mine.yaml text_encoders=null", "mine.yaml:3: tasks.text-to-image: it needs a text encoder; for a small one: text_encoders: {bytes: {}}", slow=True),
        Mistake("a GPU where there is none", "fit mine.yaml trainer.accelerator=gpu", "command line: trainer.accelerator: torch sees no GPU; set it to cpu, or auto", slow=True),
        Mistake("16-mixed with fsdp2", "fit mine.yaml trainer.strategy=fsdp2 trainer.precision=16-mixed", "command line: trainer.precision: 16-mixed does not go with fsdp2; bf16-mixed does"),
        Mistake("hsdp on one device", "fit mine.yaml trainer.strategy=hsdp", "command line: trainer.strategy: hsdp needs several devices; set devices, or strategy: auto"),
        Mistake("groups that the devices do not divide", "fit mine.yaml trainer.strategy=hsdp trainer.devices=4 trainer.shards=3", "command line: trainer.shards: 4 devices do not divide into groups of 3; 1, 2, 4 do"),
        Mistake("16-mixed on a CPU", "fit mine.yaml trainer.precision=16-mixed", "command line: trainer.precision: 16-mixed needs a GPU; set it to auto", slow=True),
        Mistake("several nodes that nobody starts", "fit mine.yaml trainer.num_nodes=2", "command line: trainer.num_nodes: nobody has started processes on 2 nodes; use SLURM, or on each node: torchrun --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m t2x_core.cli.main fit …", slow=True),
        Mistake("freezing what is not there", "fit mine.yaml 'optimizer.freeze=[bakbone.*]'", 'command line: optimizer.freeze: "bakbone.*" fits no parameter that trains; write the beginning of a name and a star, such as "backbone.head.*", "adapters.*", "text_encoders.*"', slow=True),
        Mistake("freezing all", "fit mine.yaml 'optimizer.freeze=[\"*\"]'", "command line: optimizer.freeze: nothing is left to train; take a pattern out", slow=True),
        Mistake("weights of a run that is not there", "fit mine.yaml backbone.weights=runs/mine/frist", 'command line: backbone.weights: there is no run "runs/mine/frist"; give the folder of a run, or a recipe that has one in runs/'),
        Mistake("weights of a recipe that has no run", "fit mine.yaml backbone.weights=mien", 'command line: backbone.weights: there is no run "mien"; did you mean "mine"?'),
        Mistake("weights of a run that has saved none", "fit mine.yaml backbone.weights=x", "command line: backbone.weights: x has no checkpoint; the run has not saved one yet", files={"x/recipe.yaml": VALID}, slow=True),
        Mistake("weights from a damaged file", "fit mine.yaml backbone.weights=x", "command line: backbone.weights: x/model.safetensors is damaged: Error while deserializing header: header too small", files={"x/recipe.yaml": VALID, "x/model.safetensors": "no"}, slow=True),
        Mistake("weights of something else", "fit mine.yaml backbone.weights=x", "command line: backbone.weights: no weight in x fits this model by name and shape; unet.conv.weight is in it, for example", files={"x/recipe.yaml": VALID, "x/model.safetensors": FOREIGN}, slow=True),
        Mistake("two kinds of data", "fit mine.yaml 'tasks.text-to-image.data.images={folder: photos}'", "mine.yaml:4: tasks.text-to-image.data: there are both shapes and images; write shapes: null, or images: null"),
        Mistake("a folder of images that is not there", "fit mine.yaml 'tasks.text-to-image.data={shapes: null, images: {folder: photos, size: 16}}'", "command line: tasks.text-to-image.data.images.folder: there is no folder photos", slow=True),
    ],
    "Overrides": [
        Mistake("no value", "fit mine.yaml seed", 'command line: bad override "seed"; write key.sub=value'),
        Mistake("an empty value", "fit mine.yaml seed=", 'command line: bad override "seed="; there is no value; seed=null goes back to the default'),
        Mistake("an empty key", "fit mine.yaml trainer..max_steps=3", 'command line: bad override "trainer..max_steps=3"; write key.sub=value, with no empty key'),
        Mistake("dashes", "fit mine.yaml --trainer.max_steps=3", 'command line: "--trainer.max_steps=3" is not understood; a setting has no dashes: trainer.max_steps=3'),
        Mistake("a base", "fit mine.yaml base=quickstart", 'command line: bad override "base=quickstart"; base is set in a recipe file only'),
        Mistake("broken YAML", "fit mine.yaml backbone.window=[1,2", 'command line: backbone.window must be a list of 3 integers or "auto", and what is written is broken YAML while parsing a flow sequence: expected \',\' or \']\', but got \'<stream end>\''),
        Mistake("a reference to nothing", "fit mine.yaml 'seed=${trainer.max_stepz}'", 'command line: cannot resolve "${trainer.max_stepz}": Interpolation key \'trainer.max_stepz\' not found; did you mean "trainer.max_steps"?'),
        Mistake("a reference to the environment", "fit mine.yaml 'logging.runs_dir=${oc.env:HOME}'", 'command line: "${oc.env:HOME}" calls a resolver; a recipe may refer only to its own keys, as in ${trainer.max_steps}'),
    ],
    "Commands": [
        Mistake("a misspelt command", "fti mine.yaml", 'command line: there is no command "fti"; did you mean "fit"?'),
        Mistake("no recipe", "fit", "command line: the following arguments are required: RECIPE; `t2x fit --help` shows what there is"),
        Mistake("a misspelt option", "fit mine.yaml --dryrun", 'command line: "--dryrun" is not understood; did you mean "--dry-run"?'),
        Mistake("an option that there is not", "show mine.yaml --verbose", 'command line: "--verbose" is not understood; `t2x show --help` shows what there is'),
        Mistake("options that exclude each other", "fit mine.yaml --resume --dry-run", "command line: argument --dry-run: not allowed with argument --resume; `t2x fit --help` shows what there is"),
        Mistake("a misspelt plugin", "plugins text-to-imag", 'command line: no installed plugin brings "text-to-imag"; did you mean "text-to-image"?'),
    ],
    "Runs": [
        Mistake("a run that is not there", "sample quickstrat 'a red circle'", 'command line: there is no run "quickstrat"; give the folder of a run, or a recipe that has one in runs/'),
        Mistake("a misspelt run", "sample myne 'a red circle'", 'command line: there is no run "myne"; did you mean "mine"?'),
        Mistake("an empty folder as run", "sample empty 'a red circle'", "command line: empty holds no run: there is no recipe.yaml in it; give the folder of a run, or a recipe that has one in runs/"),
        Mistake("a checkpoint as run", "sample runs/mine/first/checkpoints/step_00000002 'a red circle'", "command line: runs/mine/first/checkpoints/step_00000002 holds no run: there is no recipe.yaml in it; write runs/mine/first"),
        Mistake("a run whose recipe was broken", "sample x 'a red circle'", 'x/recipe.yaml:2: unknown key "traner"; did you mean "trainer"?', files={"x/recipe.yaml": "seed: 1\ntraner: {}\n"}),
        Mistake("a run whose recipe is now of another model", "sample mine 'a red circle'", "runs/mine/first/checkpoints/step_00000002: the checkpoint is of another model than the recipe: backbone.patch_embedding.weight is (32, 48), not (64, 48), backbone.patch_embedding.bias is (32,), not (64,), backbone.time_embedding.mlp.0.weight is (32, 256), not (64, 256) and 44 more; sample and resume with the recipe that it was trained with", files={"runs/mine/first/recipe.yaml": VALID.replace("width: 32", "width: 64")}, slow=True),
        Mistake("a damaged checkpoint", "sample mine 'a red circle'", "runs/mine/first/checkpoints/step_00000002 is damaged, or no checkpoint of t2x (SafetensorError: Error while deserializing header: header too small)", files={"runs/mine/first/checkpoints/step_00000002/rank_00000.safetensors": b'lost'}, slow=True),
        Mistake("a run that has not saved yet", "sample x 'a red circle'", "x has no checkpoint; the run has not saved one yet", files={"x/recipe.yaml": VALID}, slow=True),
        Mistake("an old run in the way", "fit mine.yaml --folder runs/mine/first", "runs/mine/first holds a run; go on with it by --resume runs/mine/first, or choose another folder", slow=True),
        Mistake("files in the way", "fit mine.yaml --folder x", "x is not empty; choose another folder", files={"x/notes.txt": "mine\n"}, slow=True),
        Mistake("a file where runs should go", "fit mine.yaml logging.runs_dir=mine.yaml", "cannot make mine.yaml/mine/<date-time>: Not a directory; set logging.runs_dir", slow=True),
        Mistake("no permission to write", "fit mine.yaml logging.runs_dir=/proc/runs", "cannot make /proc/runs/mine/<date-time>: No such file or directory; set logging.runs_dir", slow=True),
        Mistake("a resume of nothing", "fit mine.yaml --resume nowhere", 'command line: there is no run "nowhere"; give the folder of a run, or a recipe that has one in runs/', slow=True),
        Mistake("a resume with other settings", "fit mine.yaml optimizer.lr=0.5 seed=3 --resume runs/mine/first", "runs/mine/first cannot go on with another recipe: optimizer.lr (0.0001 → 0.5), seed (0 → 3); start a new run, change only backbone.weights, trainer.max_steps, trainer.accumulation, trainer.devices, trainer.num_nodes, trainer.strategy, trainer.shards, trainer.gradient_checkpointing, trainer.compile, trainer.workers, trainer.stall_minutes, trainer.threads, cache.folder, cache.latents, cache.text, cache.identity, guard, logging, or --allow what differs (optimizer.lr, seed)", slow=True),
        Mistake("a key=value behind --resume", "fit mine.yaml --resume trainer.max_steps=4", 'command line: there is no run "trainer.max_steps=4"; write key=value before the options', slow=True),
    ],
    "Sampling": [
        Mistake("no prompt", "sample runs/mine/first", "command line: nothing to sample; give a prompt, or --prompts FILE"),
        Mistake("a file of prompts that is not there", "sample runs/mine/first --prompts absent.txt", "command line: cannot read the prompts in absent.txt: No such file or directory"),
        Mistake("a file of prompts that is none", "sample runs/mine/first --prompts x.png", "command line: cannot read the prompts in x.png: it is not text in UTF-8", files={"x.png": b'\x89PNG\r\n\x1a\n\x00\xff'}),
        Mistake("no samples", "sample runs/mine/first 'a red circle' --num 0", "command line: --num must be at least 1, not 0"),
        Mistake("a word for a number", "sample runs/mine/first 'a red circle' --num two", 'command line: --num must be an integer, not "two"'),
        Mistake("a misspelt checkpoint", "sample runs/mine/first 'a red circle' --checkpoint bets", 'command line: --checkpoint is last, best or the number of a step, not "bets"'),
        Mistake("an output folder that is not there", "sample runs/mine/first 'a red circle' --out no/such/x.png", "command line: cannot write no/such/x.png: there is no folder no/such"),
        Mistake("an output folder in one that is not there", "sample runs/mine/first 'a red circle' --out no/such/", "command line: cannot write no/such: there is no folder no"),
        Mistake("a format for a lone file", "sample runs/mine/first 'a red circle' --out x.png --format webp", "command line: --format is for samples in a folder; end x.png in .webp, or in a slash"),
        Mistake("a size that is none", "sample runs/mine/first 'a red circle' --size large", 'command line: --size is a number of pixels, or HEIGHTxWIDTH, not "large"'),
        Mistake("a file that was not sampled", "sample --again mine.yaml", "command line: mine.yaml does not say how it was made; it needs a file that t2x sample wrote, and that nothing has written anew since"),
        Mistake("a lone sample of many", "sample runs/mine/first 'a red circle' --num 2 --raw", "command line: --raw writes one sample; for each in a file of its own, end --out in a slash"),
        Mistake("an unknown format", "sample runs/mine/first 'a red circle' --out x.xyz", 'command line: cannot write x.xyz: ".xyz" is no format of images; end it in .png, .gif or .mp4, or in a slash to make a folder'),
        Mistake("a task that was not trained", "sample runs/mine/first 'a red circle' --task text-to-video", 'the model was not trained on "text-to-video"; its tasks: text-to-image', slow=True),
        Mistake("a device that there is not", "sample runs/mine/first 'a red circle' --device cdua", 'there is no device "cdua" here; write cpu, cuda or cuda:1, say', slow=True),
        Mistake("a file of prompts without one", "sample runs/mine/first --prompts x.txt", "command line: there is no prompt in x.txt; write one on each line", files={"x.txt": "\ufeff\n \n"}),
        Mistake("no number", "sample runs/mine/first 'a red circle' --guidance nan", "command line: --guidance must be between 0 and 1e+06, not nan"),
        Mistake("a seed that is too large", "sample runs/mine/first 'a red circle' --seed 1180591620717411303424", "command line: --seed must be at most 9223372036854765807, not 1180591620717411303424"),
        Mistake("a format that is only read", "sample runs/mine/first 'a red circle' --out x.mpg", 'command line: cannot write x.mpg: ".mpg" is no format of images; end it in .png, .gif or .mp4, or in a slash to make a folder'),
    ],
    "The cache": [
        Mistake("a recipe that keeps nothing", "cache mine.yaml", "mine.yaml keeps nothing: there is no cache.folder; add cache.folder=cache, say"),
        Mistake("a part that there is not", "cache mine.yaml cache.folder=kept --part 3/2", 'command line: --part is "3/2"; write 1/8 … 8/8 for eight processes'),
        Mistake("a folder for nothing", "cache mine.yaml 'cache={folder: kept, latents: false, text: false}'", "command line: cache.folder: neither latents nor text is kept; write folder: null"),
    ],
    "Replaying": [
        Mistake("a word for a step", "replay mine last", "command line: argument STEP: invalid int value: 'last'; `t2x replay --help` shows what there is"),
        Mistake("a step before the first", "replay mine 0", "command line: STEP must be at least 1, not 0"),
        Mistake("a negative attempt", "replay mine 1 --attempt -1", "command line: --attempt must be at least 0, not -1"),
        Mistake("a run to replay that is not there", "replay myne 1", 'command line: there is no run "myne"; did you mean "mine"?'),
        Mistake("a report that is none", "replay mine 1", "runs/mine/first/nan_report.jsonl: line 2 is no report of a skipped step; mend it, or move the file away", files={"runs/mine/first/nan_report.jsonl": '{"cut off\n["step"]\n'}, slow=True),
    ],
}
# fmt: on


def prepare(mistake: Mistake, trained: Path, folder: Path) -> None:
    """Makes the folder that the mistake is made in; `trained` holds the run."""
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    old, new = mistake.edit or ("", "")
    assert old in VALID
    (folder / "mine.yaml").write_text(VALID.replace(old, new, 1))
    (folder / "empty").mkdir()
    for name, content in mistake.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def make(mistake: Mistake, trained: Path, folder: Path) -> str:
    """Makes the mistake in a new folder; returns the one line that t2x says, with paths and times made short."""
    prepare(mistake, trained, folder)
    before, said = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(shlex.split(mistake.command))
    finally:
        os.chdir(before)
    assert code == 2, mistake
    (line,) = said.getvalue().splitlines()
    assert line.startswith("t2x: "), line
    short = line.removeprefix("t2x: ").replace(f"{folder}/", "")
    return re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "<date-time>", short)


def page() -> str:
    """The page of the docs."""
    parts = [INTRODUCTION]
    for title, mistakes in SECTIONS.items():
        rows = [f"| {_did(mistake)} | {_code(mistake.says)} |" for mistake in mistakes]
        parts += [f"## {title}\n", "| what you did | what t2x says |\n|---|---|", *rows, ""]
    return "\n".join(parts)


def _did(mistake: Mistake) -> str:
    """ "a misspelt key: `max_stepps: 2`"."""
    if mistake.edit:
        shown = [line.strip(" ").replace("\t", "⇥") for line in mistake.edit[1].splitlines()[-1:]]
    else:
        command = f"t2x {mistake.command}"
        recipe = mistake.files.get(command.removeprefix("t2x fit "), b"")
        shown = recipe.splitlines() if isinstance(recipe, str) and recipe else [command]
    shown = [line if len(line) < 120 else f"{line[:60]}… ({len(line):,} characters)" for line in shown]
    return f"{mistake.what}: {' '.join(map(_code, shown))}" if shown else mistake.what


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


INTRODUCTION = f"""\
# Mistakes, and what t2x says

A mistake gets one line: where it is, what it is, what to do. The command ends with exit code 2 and without a traceback
(`T2X_DEBUG=1` shows one). What can be known from the recipe alone is said before torch is imported. Each line below is
what a test sees, with long paths cut short; the recipe is this one, as `mine.yaml`, and beside it is a run of it,
`{RUN}`:

```yaml
{VALID}```
"""

if __name__ == "__main__":
    print(page(), end="")
