import pytest
import torch

from tests.training.small import small_run
from vidtron.config.world import World
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.inputs import ModelInput
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("clip_grad", [0.0, 1e-3, 1e3], ids=["off", "binding", "loose"])
@pytest.mark.parametrize("distributed", [False, True])
def test_updates_are_torchs(optimizer, clip_grad, distributed):
    """Two steps of two micro-batches: gradients, their norm, clipping and update beside plain torch."""
    flags = {"lr": 1e-2, "lr_decay_style": "constant", "optimizer": optimizer, "clip_grad": clip_grad}
    # An epsilon above the clipped gradients: without it AdamW's first steps do not depend on the gradients' scale.
    run = small_run(train_iters=9, weight_decay=0.0, adam_eps=1e-3, **flags)
    run.optimizer.use_distributed_optimizer = distributed and optimizer == "adam"
    generator = torch.Generator().manual_seed(0)
    family = CogVideoXFamily()
    latents = (1, *family.latent_shape(run))
    batches = [
        ModelInput.of(
            torch.randn(latents, generator=generator),
            torch.tensor([timestep]),
            torch.randn(1, run.network.text_length, run.network.text_width, generator=generator),
        )
        for timestep in (100.0, 900.0)
    ]
    with initialized(run, WORLD) as groups:
        plain = family.build(run, groups)
        ours = run.optimizer
        settings = {"lr": ours.lr, "weight_decay": 0.0}
        if optimizer == "adam":
            betas = (ours.adam_beta1, ours.adam_beta2)
            reference = torch.optim.AdamW(plain.parameters(), betas=betas, eps=ours.adam_eps, **settings)
        else:
            reference = torch.optim.SGD(plain.parameters(), momentum=ours.sgd_momentum, **settings)
        model = assemble(family, run, groups)
        model.scheduler.step(1)  # past the warm-up's first step, whose rate is 0
        for _ in range(2):
            model.zero_grad()
            reference.zero_grad()
            for batch in batches:
                model.chunks[0](inputs=batch).square().mean().backward()
                plain(inputs=batch).square().mean().backward()
            model.chunks[0].finish_grad_sync()
            norm = model.gradient_norm()
            expected = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
            assert norm == pytest.approx(expected.item(), rel=1e-4)
            assert 1e-3 < norm < 1e3
            if clip_grad:
                torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_grad)
            reference.step()
            model.update(norm)
        for (name, weight), other in zip(model.modules[0].named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(
                weight, other, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
