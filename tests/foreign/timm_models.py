"""timm: one model of each family, the smallest, on small images."""

from functools import partial

import timm

from . import images

SIZES = {  # name: the side of an image; networks with windows or tables of positions need theirs
    32: """
        beit_base_patch16_224 cait_xxs24_224 deit_tiny_patch16_224 deit3_small_patch16_224
        eva02_tiny_patch14_224 vit_tiny_patch16_224 vit_small_patch16_dinov3
        vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 vit_xsmall_patch16_clip_224
        vit_small_patch16_rope_224 vit_small_patch16_rope_mixed_224 naflexvit_base_patch16_gap
        flexivit_small volo_d1_224 samvit_base_patch16 mixer_s16_224 gmixer_12_224 gmlp_ti16_224
        resmlp_12_224 pit_ti_224 tnt_s_patch16_224 convit_tiny xcit_nano_12_p16_224
    """,
    64: """
        cs3darknet_s convmixer_768_32 convnext_atto convnextv2_atto
        cspresnet50 densenet121 dla34 dpn48b edgenext_xx_small efficientnet_b0 tf_efficientnetv2_b0
        efficientvit_b0 fasternet_t0 fastvit_t8 ghostnet_050 ghostnetv2_100 ghostnetv3_050
        hardcorenas_a hgnetv2_b0 hrnet_w18_small inception_next_atto
        lcnet_035 mambaout_femto poolformer_s12 caformer_s18 convformer_s18
        mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilevit_xxs mobilevitv2_050
        mnasnet_050 mixnet_s nf_regnet_b0 nfnet_f0 nextvit_small pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002
        repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet18 resnet26t
        resnetv2_18 resnetv2_50x1_bit rexnetr_200 rexnet_100 selecsls42 legacy_seresnet18
        seresnet33ts skresnet18 starnet_s050 tinynet_e tresnet_m
        vgg11 vovnet39a ese_vovnet19b_dw xception41 gernet_s
        gcresnext26ts eca_resnet33ts mobileone_s0 semnasnet_075 spnasnet_100 fbnetc_100
        efficientnet_blur_b0 resnetaa34d resnetblur18 mobilenetv2_035 efficientvim_m1 shvit_s1
        swiftformer_xs lowformer_b0 iformer_t csatv2 cspnext_tiny cpubone_nano lcnetv2_small
    """,
    96: """
        legacy_xception inception_resnet_v2 inception_v3 inception_v4 nasnetalarge pnasnet5large
    """,
    224: """
        coat_tiny davit_tiny efficientformer_l1
        efficientformerv2_s0 efficientvit_m0 focalnet_tiny_srf gcvit_xxtiny levit_128s
        mvitv2_tiny
        nest_tiny sequencer2d_s swinv2_cr_tiny_ns_224 swin_s3_tiny_224
        tiny_vit_5m_224 twins_pcpvt_small twins_svt_small vit_tiny_r_s16_p8_224
        vitamin_small_224 lambda_resnet26t
        hieradet_small
        hiera_tiny_224 coatnet_pico_rw_224 swin_tiny_patch4_window7_224 visformer_tiny
    """,
    240: "crossvit_tiny_240",
    256: """
        botnet26t_256 maxvit_rmlp_pico_rw_256 halonet26t bat_resnext26ts eca_botnext26ts_256
        sebotnet33ts_256 maxxvit_rmlp_nano_rw_256 swinv2_tiny_window8_256
    """,
}


def _pair(name, size):
    "A network for seven classes, and images of the size that it needs."
    size = OTHER_SIZES.get(name, size)
    options = {"img_size": size} if size <= 32 else {}
    return timm.create_model(name, num_classes=7, **options, **FEWER.get(name, {})), *images(size)


OTHER_SIZES = {"eva02_tiny_patch14_224": 28}
FEWER = {  # options that make a network smaller
    "beit_base_patch16_224": {"depth": 3},
    "samvit_base_patch16": {"depth": 3},
    "naflexvit_base_patch16_gap": {"depth": 3},
    "flexivit_small": {"depth": 3},
    "cait_xxs24_224": {"depth": 4},
    "xcit_nano_12_p16_224": {"depth": 4},
    "mixer_s16_224": {"num_blocks": 3},
    "gmlp_ti16_224": {"num_blocks": 3},
    "convmixer_768_32": {"depth": 4},
    "vit_small_patch16_dinov3": {"depth": 3},
}
BUILDERS = {
    name: partial(_pair, name, size) for size, names in SIZES.items() for name in names.split()
}
