"""Where a step's time goes: durations of its kernels when every phase is a launch of its own, by the profiler of torch (CUPTI). Such a launch cannot bring weights
ahead of its start as a whole step does, so the sum is more than a step takes; the shares are what to look at. Rows of kind `phases` from elsewhere (a traced
build) may be merged: who, context, phase, ms."""

from collections import defaultdict

from decoding import MODES, OURS
from subject import Unavailable

# As launch_decode of src/cuda/decode.cpp has them.
PARALLEL = ("Q K V, MLP-up", "attention, MLP-down", "attention's parts", "O, residuals")
SEQUENTIAL = ("Q K V", "attention", "attention's parts", "O, residual", "MLP-up", "MLP-down, residual")
STEPS = 8


def names_of(config):
    return ["embedding", *(PARALLEL if config.parallel_residual else SEQUENTIAL) * config.n_layers, "head", "draw"]


def split(names, durations):
    """ms by phase, of each step, from durations (us) of launches in their order."""
    if not durations or len(durations) % len(names):
        raise RuntimeError(f"{len(durations)} launches do not make steps of {len(names)}")
    steps = []
    for at in range(0, len(durations), len(names)):
        sums = defaultdict(float)
        for name, us in zip(names, durations[at : at + len(names)]):
            sums[name] += us * 1e-3
        steps.append(sums)
    return steps


def phases(subject):
    if not subject.on_gpu:
        raise Unavailable("phases are launches of the CUDA backend")
    torch, names = subject.torch, names_of(subject.config)
    for context in subject.ends:
        with subject.session(context, launch_mode=MODES["phase"]) as session:
            session.steps(2)
            session.truncate(context)
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
                session.steps(STEPS)
                torch.cuda.synchronize()
        kernels = sorted((event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA and event.name[:3] not in ("Mem", "mem")),
                         key=lambda event: event.time_range.start)
        steps = split(names, [event.time_range.elapsed_us() for event in kernels])
        for phase in dict.fromkeys(names):
            times = sorted(step[phase] for step in steps)
            yield {"who": OURS, "context": context, "phase": phase, "ms": times[len(times) // 2], "launches": names.count(phase)}
