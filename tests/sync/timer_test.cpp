/* timer: to come */
