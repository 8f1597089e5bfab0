"""The data sets of the paper's mixture (Table 4): where their pictures are, how far apart frames are, and their shares.

Names are those of the Open X-Embodiment repository, as the reference implementation takes them. Step sizes bring data
sets that were recorded at different frequencies to about the same motion between two frames.
"""

from typing import NamedTuple

from worldgym.errors import ConfigError, nearest


class DataSet(NamedTuple):
    """How the paper reads a data set.

    Attributes:
        step_size: one in so many frames is taken.
        weight: share of the mixture in percent; 0 for the data sets of later tasks.
        image_key: name of the pictures among a step's observations, and in npz files of the reference.
        action_key: name of a step's action.
    """

    step_size: int
    weight: float
    image_key: str = "image"
    action_key: str = "action"


SETS = {
    "fractal20220817_data": DataSet(1, 12.8),
    "bridge": DataSet(2, 12.8),
    "bc_z": DataSet(3, 12.8),
    "robo_net": DataSet(1, 12.8),
    "kuka": DataSet(3, 8.5),
    "language_table": DataSet(3, 4.2, "rgb"),
    "stanford_mask_vit_converted_externally_to_rlds": DataSet(1, 4.2),
    "uiuc_d3field": DataSet(1, 2.2, "image_1"),  # four cameras, image_1 to image_4, are used
    "taco_play": DataSet(5, 0.5, "rgb_static"),
    "jaco_play": DataSet(3, 0.5),
    "roboturk": DataSet(3, 0.5, "front_rgb"),
    "viola": DataSet(7, 0.5, "agentview_rgb"),
    "toto": DataSet(10, 0.5),
    "columbia_cairlab_pusht_real": DataSet(3, 0.5),
    "stanford_kuka_multimodal_dataset_converted_externally_to_rlds": DataSet(7, 0.5),
    "stanford_hydra_dataset_converted_externally_to_rlds": DataSet(3, 0.5),
    "austin_buds_dataset_converted_externally_to_rlds": DataSet(7, 0.5),
    "nyu_franka_play_dataset_converted_externally_to_rlds": DataSet(1, 0.5),
    "furniture_bench_dataset_converted_externally_to_rlds": DataSet(3, 0.5),
    "ucsd_kitchen_dataset_converted_externally_to_rlds": DataSet(1, 0.5),
    "ucsd_pick_and_place_dataset_converted_externally_to_rlds": DataSet(1, 0.5),
    "austin_sailor_dataset_converted_externally_to_rlds": DataSet(7, 0.5),
    "utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds": DataSet(3, 0.5),
    "utokyo_xarm_pick_and_place_converted_externally_to_rlds": DataSet(3, 0.5),
    "utokyo_xarm_bimanual_converted_externally_to_rlds": DataSet(3, 0.5),
    "kaist_nonprehensile_converted_externally_to_rlds": DataSet(3, 0.5),
    "dlr_sara_pour_converted_externally_to_rlds": DataSet(3, 0.5),
    "dlr_sara_grid_clamp_converted_externally_to_rlds": DataSet(3, 0.5),
    "dlr_edan_shared_control_converted_externally_to_rlds": DataSet(3, 0.5),
    "asu_table_top_converted_externally_to_rlds": DataSet(4, 0.5),
    "utaustin_mutex": DataSet(7, 0.5),
    "berkeley_fanuc_manipulation": DataSet(3, 0.5),
    "cmu_playing_with_food": DataSet(3, 0.5),
    "cmu_play_fusion": DataSet(2, 0.5),
    "cmu_stretch": DataSet(3, 0.5),
}
"""The 35 data sets of Open X-Embodiment."""
OTHERS = {
    "something_something_v2": DataSet(1, 15.0),  # the tokenizer alone is trained on it
    "bair_robot_pushing": DataSet(1, 0.0, "aux1_image"),
    "tfds_robonet": DataSet(1, 0.0),
    "vp2_robosuite": DataSet(1, 0.0),
    "vp2_robodesk": DataSet(1, 0.0),
}
"""The other one of the mixture, and those of later tasks."""


def find_set(name: str) -> DataSet:
    """The data set of a name.

    Raises:
        ConfigError: for an unknown name.
    """
    known = {**SETS, **OTHERS}
    if name not in known:
        raise ConfigError(f"unknown data set {name!r} of the paper; {nearest(name, known)}")
    return known[name]
