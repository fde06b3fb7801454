"""Facts of architectures and engines: read from the catalogue, checked, and nowhere else."""

import ast
from pathlib import Path

import pytest

import predictor
from predictor.errors import InvalidSpec
from predictor.hardware import architectures as module
from predictor.hardware.architectures import Capability, Generation, architectures, capability, generation
from predictor.hardware.gpu import catalogue
from predictor.hardware.spec import COMPUTE_DTYPES
from predictor.ops import DTYPES, FAMILIES
from predictor.shipped import facts
from predictor.workloads import engine_tables
from predictor.workloads.engine_tables import (
    OTHERS,
    SERVES,
    TRAINS,
    engine_names,
    measured_engines,
    operators_of,
    picked_kernel,
    tables,
)
from predictor.workloads.engines import engines

GENERATIONS = architectures().generations


def test_every_generation_has_a_source():
    assert all(known.source for known in GENERATIONS.values())


def test_every_capability_of_the_catalogue_belongs_to_its_generation():
    """Where a vendor names capabilities; what their SMs reach is known for each but the Jetsons' link."""
    tabled = {
        (name, part)
        for name, table in module.read_catalogue("architectures.toml").items()
        for part in table["capabilities"]
    }
    assert {
        (gpu.generation, gpu.compute_capability) for gpu in catalogue().values() if gpu.compute_capability
    } <= tabled


def test_revisions_run_kernels_that_are_known():
    known = architectures().capabilities
    assert all(each.same_kernels_as in {"", *known} for each in known.values())
    assert all(each.kernels_as in {"", *GENERATIONS} for each in GENERATIONS.values())


def test_what_is_converted_has_no_units():
    for name, known in architectures().capabilities.items():
        assert set(known.rates) | set(known.emulates) <= set(COMPUTE_DTYPES), name
        assert known.rates and not set(known.rates) & set(known.emulates), name
        assert all(0 < share <= 1 for share in known.emulates.values()), name
        sixteen = {rate for dtype, rate in known.rates.items() if dtype in ("fp16", "bf16")}
        assert sixteen <= set(known.rates_16_bit), name


def test_what_nobody_described_has_defaults():
    assert generation("Rubin") == Generation() and capability("13.0") == Capability()


def test_a_generation_takes_the_kernels_of_the_one_it_names(monkeypatch):
    whole = architectures()
    new = {**GENERATIONS, "Rubin": Generation(source="a test", kernels_as="Blackwell")}
    monkeypatch.setattr(module, "architectures", lambda: whole._replace(generations=new))
    picked_kernel.cache_clear()
    for engine in tables():
        for name in ("attention", "moe", "mla_prefill", "mla_decode"):
            assert picked_kernel(name, engine, "Rubin") == picked_kernel(name, engine, "Blackwell")
    picked_kernel.cache_clear()


def test_an_unknown_key_and_a_wrong_type_are_told():
    with pytest.raises(InvalidSpec, match=r'^unknown key host_shares in generation "X"; did you mean host_share\?$'):
        facts(Generation, {"host_shares": 1.0}, 'generation "X"')
    with pytest.raises(InvalidSpec, match=r'^packed_scales is 1 in generation "X"; it must be bool\.$'):
        facts(Generation, {"packed_scales": 1}, 'generation "X"')
    with pytest.raises(InvalidSpec, match=r'^link_gb_per_s is True in capability "1"; it must be float\.$'):
        facts(Capability, {"link_gb_per_s": True}, 'capability "1"')


def test_the_engines_by_default_are_engines():
    assert {SERVES, TRAINS} <= set(engine_names()) == set(engines())


def test_every_engine_names_what_the_package_has():
    families = {kind.family for kind in FAMILIES}
    for name, table in tables().items():
        kernels = operators_of(name)
        assert table["source"] and {*kernels.measured, *kernels.stood_in} <= families
        assert table.get("tables", SERVES) in measured_engines()
        capabilities = set(architectures().capabilities)
        assert {key for picks in kernels.kernels.values() for key in picks} <= {OTHERS, *GENERATIONS, *capabilities}
        assert set(kernels.widens_latent) <= set(GENERATIONS)
        assert {*kernels.latent_fp8, *kernels.flashinfer_passes_on, *kernels.fused_experts} <= capabilities
        assert set(kernels.ogs_experts) <= set(GENERATIONS)
        assert set(kernels.normed_sums) <= {"plain", "experts"}
        assert set(kernels.stood_in_on) <= {*GENERATIONS, *capabilities}
        for here in kernels.stood_in_on.values():
            for family, others in here.items():
                assert set(others) <= set(DTYPES) and set(others.values()) <= set(measured_engines(family))


def test_a_choice_of_kernels_needs_one_for_all_other_generations(monkeypatch):
    broken = {**tables(), "mine": {"operators": {"kernels": {"moe": {"Hopper": "native"}}}}}
    monkeypatch.setattr(engine_tables, "tables", lambda: broken)
    with pytest.raises(InvalidSpec, match=r"^kernels\.moe in \[mine\.operators\] lacks others; add it\.$"):
        operators_of("mine")


def test_no_module_names_a_generation():
    """What a generation can do stands in the catalogue; a new one touches no module."""
    named = {
        f"{path.name}:{node.lineno} {node.value}"
        for path in Path(predictor.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in GENERATIONS
    }
    assert not named
