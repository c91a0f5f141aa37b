"""Every name inside SGLang, and one inside torch, that the plugin leans on, in one table.

SGLang is pinned exactly because these are internals. A test resolves each of them, so that an upgrade fails by the
name of what moved.
"""

from typing import Final

GENERATE_REQUEST: Final = "sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request"
MATCH_PREFIX: Final = "sglang.srt.managers.schedule_batch.match_kv_cache"
SAMPLING_BATCH: Final = "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch"
FILTERED_DRAW: Final = "sglang.srt.layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch"
SEEDED_DRAW: Final = "sglang.srt.layers.sampler.multinomial_with_seed"
CAPPED_LOGITS: Final = "sglang.srt.layers.logits_processor.fused_softcap"
LOAD_WEIGHTS: Final = "sglang.srt.model_loader.loader.DefaultModelLoader.load_weights_only"
WEIGHT_FILES: Final = "sglang.srt.model_loader.loader.filter_duplicate_safetensors_files"
TOKENIZER: Final = "sglang.srt.utils.hf_transformers.tokenizer.get_tokenizer"
LAUNCH_SCHEDULERS: Final = "sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes"
KV_BUFFERS: Final = "sglang.srt.mem_cache.memory_pool.MHATokenToKVPool._create_buffers_normal"
RENDEZVOUS: Final = "torch.distributed.rendezvous._create_c10d_store"
REPLICAS_LOOP: Final = "sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop"
SIGTERM_WATCH: Final = "sglang.srt.managers.tokenizer_manager.TokenizerManager.sigterm_watchdog"
INTERNAL_STATE: Final = "sglang.srt.managers.scheduler.Scheduler.get_internal_state"
_NATIVE: Final = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"

NAMES: Final[dict[str, str]] = {
    GENERATE_REQUEST: "hooked: decodes injected vectors, refuses generation where none can be, encodes a source's rows",
    MATCH_PREFIX: "hooked: reuses what stands before an injected vector",
    SAMPLING_BATCH: "hooked: gives every request its own sampling seed",
    FILTERED_DRAW: "hooked: keeps a seeded request's text independent of its neighbours",
    SEEDED_DRAW: "replaced on CPUs, where its kernel does not load",
    CAPPED_LOGITS: "replaced on CPUs, where its kernel does not load",
    LOAD_WEIGHTS: "hooked: finds parameters that are missing from the checkpoint, NaN or infinite",
    WEIGHT_FILES: "hooked: lets files of a source, or of a reconstructor's base, that hold no block of it be missing",
    TOKENIZER: "hooked: loads what was loaded before no second time",
    LAUNCH_SCHEDULERS: "hooked: loads the tokenizer before processes are forked that want it",
    KV_BUFFERS: "hooked on CPUs: writes no zeros to memory that is not used",
    RENDEZVOUS: "hooked: keeps the store where an engine's processes meet from listening on every address",
    REPLICAS_LOOP: "hooked: lets the process that shares requests out over replicas sleep while there are none",
    SIGTERM_WATCH: "hooked: looks for a SIGTERM more often",
    INTERNAL_STATE: "hooked: tells the gateway which role and model really run",
    "sglang.srt.runtime_context.get_serving": "which tokenizer that is",
    "sglang.srt.runtime_context.get_model": "how far it is trusted, and its revision",
    "sglang.srt.managers.tokenizer_manager.TokenizerManager.gracefully_exit": "tells that one came",
    "sglang.srt.managers.embed_types.PositionalEmbeds": "carries a vector to its position in the prompt",
    "sglang.srt.managers.io_struct.GenerateReqInput": "the request that carries it",
    "sglang.srt.managers.schedule_batch.Req._compute_max_prefix_len": "how much of a prompt may come from the cache",
    "sglang.srt.managers.schedule_batch.Req.init_next_round_input": "calls match_kv_cache without ids",
    "sglang.srt.constants.HEALTH_CHECK_RID_PREFIX": "begins ids that a busy engine drops; none of ours begins so",
    "sglang.srt.plugins.hook_registry.HookRegistry.register": "registers the hooks",
    "sglang.srt.plugins.hook_registry._propagate_patch": "replaced: looks for what is hooked where it can be",
    "sglang.srt.plugins.hook_registry.HookRegistry._patched": "the hooks that are really in",
    "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.sampling_seed": "where the seeds go",
    "sglang.srt.plugins.hook_registry.HookType": "kinds of hooks",
    "sglang.srt.platforms.cpu.CpuDeviceMixin": "base of the CPU platform",
    "sglang.srt.platforms.device_mixin.PlatformEnum.OOT": "marks the CPU platform as out of tree",
    "sglang.srt.platforms.interface.SRTPlatform": "base of the CPU platform",
    "sglang.srt.arg_groups.choices.add_attention_backend_choices": "lets --attention-backend name ours",
    "sglang.srt.layers.attention.attention_registry.register_attention_backend": "registers ours",
    "sglang.srt.platforms.interface.SRTPlatform.init_backend": "called in time to register it",
    _NATIVE: "base of the attention on CPUs, and what it falls back on",
    f"{_NATIVE}.init_forward_metadata": "comes before a batch's layers",
    f"{_NATIVE}.forward_extend": "overridden: knows the layer, whose scores may be capped",
    f"{_NATIVE}.forward_decode": "overridden: knows the layer, whose scores may be capped",
    f"{_NATIVE}._run_sdpa_forward_extend": "overridden: its loop over sequences",
    f"{_NATIVE}._run_sdpa_forward_decode": "overridden: its loop over sequences",
    "sglang.srt.model_executor.forward_batch_info.ForwardMode": "which of the two a batch takes",
    "sglang.srt.layers.quantization.kv_cache.BaseKVCacheMethod.create_weights": "marks scales that may be missing",
    "sglang.srt.layers.pooler.EmbeddingPoolerOutput": "what an embedding model returns",
    "sglang.srt.managers.io_struct.EmbeddingReqInput": "what a source is asked by, with token_indices_to_pool",
    "sglang.srt.entrypoints.http_server.encode_request": "takes it",
    "sglang.srt.model_executor.forward_batch_info.ForwardBatch.token_indices_to_pool": "positions to read a source at",
    "sglang.srt.models.registry.ModelRegistry.models": "where our model stands in the place of SGLang's",
    "sglang.srt.layers.layer_boundary.residual.batch.fold": "forms a block's whole output, to which a vector is added",
}
"""Dotted name -> what for."""
